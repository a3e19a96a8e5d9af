"""How much better or worse things go than was expected: one number, learned from few outcomes. Pure.

Two estimates meet here without either drowning the other: a base that says what chance to expect, and the ratio of
odds by which this session, place or source differs from it.
"""

from __future__ import annotations


class Shift:
    """The ratio of odds between what was seen and what was expected; 1 while nothing was seen."""

    __slots__ = ("_decay", "_expected", "_judged", "_right", "_weight", "odds")

    def __init__(self, decay: float, weight: float) -> None:
        """Evidence fades by ``decay`` per outcome; ``weight`` outcomes of it count as much as "no different"."""
        self._decay = decay
        self._weight = weight / 2
        self._right = self._judged = self._expected = 0.0
        self.odds = 1.0

    def add(self, is_right: bool, chance: float) -> None:
        """An outcome, and the chance that it was given."""
        self._right = self._decay * self._right + is_right
        self._judged = self._decay * self._judged + 1.0
        self._expected = self._decay * self._expected + chance
        self._settle()

    def fade(self, share: float) -> None:
        """Keep this share of the evidence."""
        self._right, self._judged, self._expected = share * self._right, share * self._judged, share * self._expected
        self._settle()

    def _settle(self) -> None:
        weight = self._weight
        seen = (self._right + weight) / (self._judged - self._right + weight)
        self.odds = seen * (self._judged - self._expected + weight) / (self._expected + weight)

    def apply(self, chance: float) -> float:
        """``chance`` with its odds multiplied."""
        return self.odds * chance / (1.0 - chance + self.odds * chance)
