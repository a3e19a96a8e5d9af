"""Which member of a pool takes a session. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A healthy and compatible member."""

    address: str
    num_sessions: int
    not_before: float = 0.0
    """It refused this session and is to be left alone until then."""


def pick(candidates: Sequence[Candidate], now: float) -> Candidate | None:
    """The one with the fewest sessions; equal ones by address, so that a replay picks the same."""
    free = [one for one in candidates if one.not_before <= now]
    return min(free, key=lambda one: (one.num_sessions, one.address), default=None)
