"""Who guesses in a stack and what that takes, for the head of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.requests import CoordinatorInfo
from paceline.core.types import DrafterInfo, VerifierInfo


@dataclass(frozen=True, slots=True)
class DrafterUse:
    """A drafter at its place."""

    name: str
    place: str
    """``verifier`` or ``pool``."""
    weights_bytes: int
    state_bytes: int
    """The most that its sessions have taken."""


def drafters_of(info: CoordinatorInfo) -> list[DrafterUse]:
    """Of all members, those in verifiers first."""
    targets = [one.info for one in info.verifiers if isinstance(one.info, VerifierInfo)]
    inside = [_use(one.resident, "verifier") for one in targets if one.resident is not None]
    return inside + [_use(one.info, "pool") for one in info.drafters if isinstance(one.info, DrafterInfo)]


def _use(info: DrafterInfo, place: str) -> DrafterUse:
    return DrafterUse(info.name, place, info.weights_bytes, info.state_bytes)


def name_all(uses: Sequence[DrafterUse]) -> str:
    """In one line; members that are alike once."""
    names = [one.name if one.place == "pool" else f"{one.name}, in the verifier" for one in uses]
    return "; ".join(dict.fromkeys(names)) or "none"


def memory_of(uses: Sequence[DrafterUse]) -> str:
    """In one line."""
    weights, state = sum(one.weights_bytes for one in uses), sum(one.state_bytes for one in uses)
    return f"{weights / 1e6:.2f} MB of weights, {state / 1e6:.2f} MB of sessions at most"
