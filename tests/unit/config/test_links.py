"""Emulated networks as people write them."""

from __future__ import annotations

import pytest

from paceline.config.links import LinkProfile, parse_link
from paceline.core.errors import InvalidRequest


def test_everything_can_be_said_of_a_link() -> None:
    link = parse_link("rtt=20ms, jitter=20%, bandwidth=100mbit, lost_every=2min")
    assert link == LinkProfile(rtt_s=0.02, jitter=0.2, bytes_per_s=12.5e6, lost_every_s=120.0)
    assert link


@pytest.mark.parametrize("text", ["", " ", ",", "rtt=0ms"])
def test_a_link_of_which_nothing_is_said_is_the_network_as_it_is(text: str) -> None:
    assert not parse_link(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("rtt=500us", 0.0005), ("rtt=1.5ms", 0.0015), ("rtt=2s", 2.0), ("RTT=1ms", None)]
)
def test_times_have_units(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(InvalidRequest, match="'RTT=1ms' is none of rtt, jitter"):
            parse_link(text)
    else:
        assert parse_link(text) == LinkProfile(rtt_s=pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rtt=20", "rtt=20 needs a number and one of us, ms, s"),
        ("rtt=-1ms", "rtt=-1ms needs a number"),
        ("rtt=nanms", "needs a number"),
        ("jitter=0.2", "jitter=0.2 needs a number and one of %"),
        ("jitter=101%", "more than 100%"),
        ("bandwidth=0mbit", "lets nothing through"),
        ("latency=3ms", "'latency=3ms' is none of rtt, jitter, bandwidth, lost_every"),
        ("rtt", "'rtt' is none of"),
        ("rtt=1ms,rtt=2ms", "rtt is there twice"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        parse_link(text)
