"""Pools that are listed in the settings: every member is host:port, and counts once."""

from __future__ import annotations

import pytest

from paceline.core.errors import InvalidRequest
from paceline.discovery.static import check_addresses


def test_addresses_keep_their_order_and_repeats_count_once() -> None:
    assert check_addresses("verifiers", ["b:2", "a:1", "b:2"]) == ("b:2", "a:1")


@pytest.mark.parametrize("address", ["a:1", "127.0.0.1:65535", "[::1]:50061", "verifier.default.svc:50061"])
def test_host_and_port_are_taken(address: str) -> None:
    assert check_addresses("verifiers", [address]) == (address,)


def test_no_addresses_are_no_members() -> None:
    assert check_addresses("drafters", []) == ()


@pytest.mark.parametrize("address", ["", "a", ":1", "a:", "a:x", "a:0", "a:65536", "a:-1", "a:²"])
def test_what_is_no_address_is_refused_by_the_setting(address: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^drafters: .* is not host:port"):
        check_addresses("drafters", ["a:1", address])
