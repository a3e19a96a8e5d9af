"""Room for sessions in drafters that have no slots of their own to run out of."""

from __future__ import annotations

from collections.abc import Collection

from paceline.core.errors import ResourceExhausted
from paceline.core.types import DrafterInfo


def require_seat(taken: Collection[str], info: DrafterInfo) -> None:
    """Raise ``ResourceExhausted`` when all are taken."""
    if len(taken) >= info.max_sessions:
        raise ResourceExhausted(f"All {info.max_sessions} sessions are taken; try another drafter.")
