"""Emulated networks, as text: ``rtt=20ms,jitter=20%,bandwidth=100mbit,lost_every=60s``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from paceline.core.errors import InvalidRequest

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES_PER_S = {"kbit": 125.0, "mbit": 125e3, "gbit": 125e6}
_VALUE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z%]+)")
_EXAMPLE = "write it as rtt=20ms,jitter=20%,bandwidth=100mbit,lost_every=60s"


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What a way between two processes is made to look like; zeros change nothing."""

    rtt_s: float = 0.0
    """Round-trip time, half of it in each direction."""
    jitter: float = 0.0
    """Every message takes up to this share longer or shorter, uniformly; none overtakes another."""
    bytes_per_s: float = 0.0
    """In each direction; 0 is unlimited."""
    lost_every_s: float = 0.0
    """Mean time until the connection is lost (exponentially distributed); 0 is never."""

    def __bool__(self) -> bool:
        return self != LinkProfile()


def parse_link(text: str) -> LinkProfile:
    """The profile that ``text`` describes; empty text is the network as it is. Raises ``InvalidRequest``."""
    found: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        key, equals, value = (one.strip() for one in part.partition("="))
        if not equals or key not in _UNITS:
            raise InvalidRequest(f"link: {part!r} is none of {', '.join(_UNITS)}; {_EXAMPLE}.")
        field, units = _UNITS[key]
        if field in found:
            raise InvalidRequest(f"link: {key} is there twice.")
        found[field] = _number(key, value, units)
    return LinkProfile(**found)


_UNITS = {
    "rtt": ("rtt_s", _SECONDS),
    "jitter": ("jitter", {"%": 0.01}),
    "bandwidth": ("bytes_per_s", _BYTES_PER_S),
    "lost_every": ("lost_every_s", {**_SECONDS, "min": 60.0}),
}


def _number(key: str, value: str, units: dict[str, float]) -> float:
    match = _VALUE.fullmatch(value.lower())
    if match is None or match[2] not in units:
        raise InvalidRequest(f"link: {key}={value} needs a number and one of {', '.join(units)}; {_EXAMPLE}.")
    number = float(match[1]) * units[match[2]]
    if key == "jitter" and number > 1.0:
        raise InvalidRequest(f"link: jitter={value} is more than 100%; no message arrives before it was sent.")
    if key == "bandwidth" and not number:
        raise InvalidRequest("link: a bandwidth of 0 lets nothing through; leave it out for no limit.")
    return number
