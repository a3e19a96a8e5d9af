"""What a verifier step runs: decoding with as many drafts as pay, and prefill in fair chunks. Pure.

Prompts are read in the same steps in which others decode, in pieces that are small enough for these: measured step
costs say how many rows a step may have until it takes ``Limits.slowdown`` times as long as without prompts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.errors import InvalidRequest
from paceline.core.types import StepItem
from paceline.speculation.alternatives import Share, choose_alternatives
from paceline.speculation.draft_length import Cost, choose_lengths, lengthen
from paceline.speculation.draft_tree import Path
from paceline.speculation.session import VerifierSession
from paceline.speculation.tenants import TenantShares

DECODE_ROWS = 16
"""A session with at most this many missing rows counts as decoding."""
PREFILL_SHARE = 0.25
"""Of all rows, kept for prefill while it waits: however many sessions decode, a prompt gets on."""
LEAST_PREFILL = 16
"""Rows that prompts may have beside decoding sessions, however long these make a step."""

_Share = tuple[VerifierSession, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one step. Raises ``InvalidRequest`` for limits that let nothing run."""

    token_budget: int
    """Rows at most."""
    prefill_chunk: int
    """Committed tokens of one session at most."""
    max_alternatives: int = 0
    """Of all sessions together."""
    slowdown: float = 4.0
    """How many times as long as without prompts a step may take in which somebody decodes."""

    def __post_init__(self) -> None:
        for name in ("token_budget", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.slowdown >= 1.0:
            raise InvalidRequest(f"prefill_slowdown must be at least 1, got {self.slowdown:g}.")


class Batcher:
    """Plans one step after the other; remembers what prefill is owed and who stands where in the line.

    Nobody starves: prefill gets its share and decoding the rest, of each kind the tenant that had least comes first,
    and of a tenant's sessions the one that waits longest.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owed = 0.0
        self._line: list[str] = []
        self._tenants = TenantShares()

    def plan(self, ready: Sequence[VerifierSession], cost: Cost) -> list[tuple[VerifierSession, StepItem]]:
        """Sessions that take part with their rows; never more rows than the budget, never a session twice."""
        budget, line = self._limits.token_budget, self._lined_up(ready)
        self._tenants.enter(frozenset(one.spec.tenant for one in ready))
        decoding = self._tenants.order([one for one in line if one.num_pending <= DECODE_ROWS], self._chunk)
        prefilling = self._tenants.order([one for one in line if one.num_pending > DECODE_ROWS], self._chunk)
        taking = self._with_prefill(decoding, prefilling, cost)
        served = [session.session for session, _ in taking]
        self._line = [one.session for one in line if one.session not in served] + served
        plan = self._with_drafts(taking, budget - _rows(taking), cost)
        rows = Counter[str]()
        for session, item in plan:
            rows[session.spec.tenant] += item.num_rows
        self._tenants.charge(rows)
        return plan

    def _with_prefill(
        self, decoding: Sequence[VerifierSession], prefilling: Sequence[VerifierSession], cost: Cost
    ) -> list[_Share]:
        """Rows for decoding; then for prompts what drafts that pay leave, as far as decoding is not kept waiting."""
        budget = self._limits.token_budget
        if not prefilling:
            self._owed = 0.0
            return self._take(decoding, budget)
        bearable = self._bearable(min(sum(map(self._chunk, decoding)), budget), cost)
        self._owed += PREFILL_SHARE * budget
        kept = min(int(self._owed), sum(map(self._chunk, prefilling)), bearable)
        taking = self._take(decoding, budget - kept)
        left = budget - _rows(taking)
        drafts = sum(self._lengths(taking, left - kept, cost))
        chunks: list[_Share] = []
        found = -1
        while found < _rows(wider := self._take(prefilling, max(kept, min(left - drafts, bearable)))):
            chunks, found = wider, _rows(wider)
            drafts = sum(self._lengths(taking + chunks, left - found, cost))  # beside prompts fewer drafts pay
        self._owed = max(0.0, self._owed - _rows(chunks)) % 1.0  # what prefill had no use for is not owed any more
        return taking + chunks

    def _bearable(self, base: int, cost: Cost) -> int:
        """Rows of prompts beside ``base`` rows of decoding; all where nobody decodes."""
        budget = self._limits.token_budget
        if not base:
            return budget
        longest = self._limits.slowdown * cost.seconds(base)
        fitting = bisect_right(range(base + 1, budget + 1), longest, key=cost.seconds)
        return max(fitting, LEAST_PREFILL)

    def _lined_up(self, ready: Sequence[VerifierSession]) -> list[VerifierSession]:
        """Who was served goes to the end of the line; newcomers stand behind everybody."""
        place = {session: index for index, session in enumerate(self._line)}
        return sorted(ready, key=lambda one: place.get(one.session, len(place)))

    def _take(self, sessions: Sequence[VerifierSession], budget: int) -> list[_Share]:
        """Rows for as many as the budget allows."""
        taking: list[_Share] = []
        for session in sessions:
            rows = min(self._chunk(session), budget)
            if rows <= 0:
                break
            taking.append((session, rows))
            budget -= rows
        return taking

    def _chunk(self, session: VerifierSession) -> int:
        return min(session.num_pending, self._limits.prefill_chunk)

    def _with_drafts(self, taking: Sequence[_Share], budget: int, cost: Cost) -> list[tuple[VerifierSession, StepItem]]:
        """As many drafts as pay, then what pays beside them."""
        paths, chances = _guesses(taking)
        lengths = self._lengths(taking, budget, cost)
        shares = [
            Share(path, own, session.seconds.chances(path), length, session.spec.max_draft - length)
            for (session, _), path, own, length in zip(taking, paths, chances, lengths, strict=True)
        ]
        room = min(budget - sum(lengths), self._limits.max_alternatives)
        beside = choose_alternatives(shares, _rows(taking) + sum(lengths), room, cost)
        plan = zip(taking, lengths, beside, strict=True)
        return [(session, session.rows(rows, length, others)) for (session, rows), length, others in plan]

    def _lengths(self, taking: Sequence[_Share], budget: int, cost: Cost) -> list[int]:
        """Draft tokens of each, in a step with no other rows than these."""
        _, chances = _guesses(taking)
        lengths = choose_lengths(chances, _rows(taking), budget, cost)
        least = [min(session.spec.min_draft, len(own)) for (session, _), own in zip(taking, chances, strict=True)]
        return lengthen(lengths, least, budget)


def _guesses(taking: Sequence[_Share]) -> tuple[list[Path], list[list[float]]]:
    """Drafts that could be checked, with the chance of each to be accepted."""
    paths = [session.path() if rows == session.num_pending else Path() for session, rows in taking]
    return paths, [session.acceptance.chances(path) for (session, _), path in zip(taking, paths, strict=True)]


def _rows(taking: Sequence[_Share]) -> int:
    return sum(rows for _, rows in taking)
