"""Pools that are listed in the settings."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.core.errors import InvalidRequest


def check_addresses(field: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """host:port each, without repeats; raises ``InvalidRequest`` naming the field."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidRequest(f"{field}: {address!r} is not host:port, such as 127.0.0.1:50061.")
    return tuple(dict.fromkeys(addresses))
