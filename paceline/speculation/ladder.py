"""How far things usually get, place by place: one rate per rung, given that the one before was reached. Pure.

Sessions learn on ladders of their own that lean on one for all sessions; that one takes a place which was never tried
for like the place before it.
"""

from __future__ import annotations

from collections.abc import Sequence

NUM_RUNGS = 16
"""Places beyond share the last rate."""
FIRST = 0.5
"""What the first place is taken for while nothing is known."""
OWN_WEIGHT, OWN_DECAY = 4.0, 0.96
"""What all sessions know counts like this many outcomes of the session; its own evidence fades per outcome."""
SHARED_WEIGHT, SHARED_DECAY = 8.0, 0.99


class Ladder:
    """``base`` is what it leans on; without one it is for all sessions."""

    def __init__(self, base: Ladder | None = None) -> None:
        self._base = base
        self._weight, self._decay = (SHARED_WEIGHT, SHARED_DECAY) if base is None else (OWN_WEIGHT, OWN_DECAY)
        self._hits = [0.0] * NUM_RUNGS
        self._trials = [0.0] * NUM_RUNGS

    def climb(self, reached: int, limit: int) -> None:
        """``reached`` places were taken; the next one was not if it lies below ``limit``, else nobody knows."""
        if self._base is not None:
            self._base.climb(reached, limit)
        for index in range(min(max(reached, min(limit, reached + 1)), NUM_RUNGS)):
            self._hits[index] = self._decay * self._hits[index] + (index < reached)
            self._trials[index] = self._decay * self._trials[index] + 1.0

    def rates(self) -> list[float]:
        """Per place, given that the one before was reached."""
        known = self._base.rates() if self._base is not None else None
        out, before = [], FIRST
        for index, (hits, trials) in enumerate(zip(self._hits, self._trials, strict=True)):
            before = (hits + self._weight * (known[index] if known else before)) / (trials + self._weight)
            out.append(before)
        return out

    def heights(self, limits: Sequence[int]) -> list[float]:
        """Mean places taken of at most so many, per limit; ``limits`` rise."""
        rates, out = self.rates(), []
        reach, height, place = 1.0, 0.0, 0
        for limit in limits:
            while place < limit:
                reach *= rates[min(place, NUM_RUNGS - 1)]
                height += reach
                place += 1
            out.append(height)
        return out
