"""Which of several drafters to believe, learned online from what became of their guesses. Pure.

A *claim* is one guessed token: who says so, who says otherwise at this place, how far beyond the last commit, and how
sure they are. Chances of claims are learned for all sessions together; each session then shifts them by how often it
has been right or wrong itself, so that a text of another kind is noticed within some ten tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from paceline.speculation.odds import Shift

LEAST, MOST = 0.02, 0.98
"""Nothing is ever held for impossible or certain."""
NUM_BUCKETS = 8
"""Of confidence."""
PRIOR_WEIGHT = 6.0
"""The sources' own confidence counts like this many judged claims of its kind."""
SHARED_DECAY = 0.998
"""Of the evidence of all sessions, per claim judged in its cell: half of it is gone after 350."""
SESSION_DECAY = 0.94
"""Of a session's own evidence, per claim judged: a text's nature may change within some 15 tokens."""
SESSION_WEIGHT = 2.0
"""What all sessions know counts like this many claims of the session itself."""
MAX_CELLS = 4096
"""Kinds of claims remembered, however many sources there are; the one unused for longest is forgotten."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That the next token is a certain one."""

    supporters: int
    """Bit set of the sources that guess it."""
    opponents: int
    """Bit set of the sources that guess another token here."""
    depth: int
    """Tokens between the last commit and this one when it was guessed: guesses far ahead are worse."""
    confidence: float
    """Chance that it is right as far as its supporters know."""


@dataclass(slots=True)
class _Tally:
    right: float = 0.0
    judged: float = 0.0

    def add(self, is_right: bool, decay: float) -> None:
        self.right = decay * self.right + is_right
        self.judged = decay * self.judged + 1.0


class SharedTrust:
    """What all sessions have seen; only counts, no text."""

    def __init__(self) -> None:
        self._cells: OrderedDict[Hashable, _Tally] = OrderedDict()

    def chance(self, claim: Claim) -> float:
        """The learned rate of such claims, shrunk to their own confidence."""
        prior = min(max(claim.confidence, LEAST), MOST)
        tally = self._cells.get(_cell(claim))
        if tally is None:
            return prior
        return _bounded((tally.right + PRIOR_WEIGHT * prior) / (tally.judged + PRIOR_WEIGHT))

    def learn(self, claim: Claim, is_right: bool) -> None:
        """What became of a claim whose earlier tokens were right."""
        cell = _cell(claim)
        tally = self._cells.get(cell)
        if tally is None:
            if len(self._cells) >= MAX_CELLS:
                self._cells.popitem(last=False)
            tally = self._cells[cell] = _Tally()
        self._cells.move_to_end(cell)
        tally.add(is_right, SHARED_DECAY)


class SessionTrust:
    """One session's view of its sources."""

    def __init__(self, shared: SharedTrust) -> None:
        self._shared = shared
        self._shifts: dict[int, Shift] = {}

    def chance(self, claim: Claim) -> float:
        """That the claim is right given that all tokens before it are."""
        chance = self._shared.chance(claim)
        shift = self._shifts.get(claim.supporters)
        if shift is None:
            return chance
        return _bounded(shift.apply(chance))

    def learn(self, claim: Claim, is_right: bool) -> None:
        """What became of a claim, for this session and for all."""
        shift = self._shifts.get(claim.supporters)
        if shift is None:
            shift = self._shifts[claim.supporters] = Shift(SESSION_DECAY, SESSION_WEIGHT)
        shift.add(is_right, self._shared.chance(claim))
        self._shared.learn(claim, is_right)


def _bounded(chance: float) -> float:
    return min(max(chance, LEAST), MOST)


def _cell(claim: Claim) -> Hashable:
    """Depths fall into classes 0, 1, 2-3, 4-7, ...; confidences into equal parts."""
    bucket = min(int(claim.confidence * NUM_BUCKETS), NUM_BUCKETS - 1)
    return claim.supporters, claim.opponents, claim.depth.bit_length(), bucket
