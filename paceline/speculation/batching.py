"""What a verifier step runs: decoding first, then prefill in fair chunks, then as many drafts as pay. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.errors import InvalidRequest
from paceline.core.types import StepItem
from paceline.speculation.alternatives import Share, choose_alternatives
from paceline.speculation.draft_length import Cost, choose_lengths, lengthen
from paceline.speculation.draft_tree import Path
from paceline.speculation.session import VerifierSession

DECODE_ROWS = 16
"""A session with at most this many missing rows counts as decoding."""
PREFILL_SHARE = 0.25
"""Of all rows, kept for prefill while it waits: however many sessions decode, a prompt gets on."""

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

    def __post_init__(self) -> None:
        for name in ("token_budget", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} must be at least 1, got {getattr(self, name)}.")


class Batcher:
    """Plans one step after the other; remembers what prefill is owed and who stands where in the line.

    Nobody starves: prefill gets its share and decoding the rest, and of each kind whoever waits longest comes first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owed = 0.0
        self._line: list[str] = []

    def plan(self, ready: Sequence[VerifierSession], cost: Cost) -> list[tuple[VerifierSession, StepItem]]:
        """Sessions that take part with their rows; never more rows than the budget, never a session twice."""
        budget, line = self._limits.token_budget, self._lined_up(ready)
        decoding = [one for one in line if one.num_pending <= DECODE_ROWS]
        prefilling = [one for one in line if one.num_pending > DECODE_ROWS]
        self._owed = self._owed + PREFILL_SHARE * budget if prefilling else 0.0
        kept = min(int(self._owed), sum(self._chunk(one) for one in prefilling))
        taking = self._take(decoding, budget - kept)
        chunks = self._take(prefilling, budget - _rows(taking))
        self._owed = max(0.0, self._owed - _rows(chunks)) % 1.0  # what prefill had no use for is not owed any more
        taking += chunks
        served = [session.session for session, _ in taking]
        self._line = [one.session for one in line if one.session not in served] + served
        return self._with_drafts(taking, budget - _rows(taking), cost)

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
        paths = [session.path() if rows == session.num_pending else Path() for session, rows in taking]
        chances = [session.acceptance.chances(path) for (session, _), path in zip(taking, paths, strict=True)]
        lengths = choose_lengths(chances, _rows(taking), budget, cost)
        least = [min(session.spec.min_draft, len(own)) for (session, _), own in zip(taking, chances, strict=True)]
        lengths = lengthen(lengths, least, budget)
        shares = [
            Share(path, own, session.seconds.chances(path), length, session.spec.max_draft - length)
            for (session, _), path, own, length in zip(taking, paths, chances, lengths, strict=True)
        ]
        room = min(budget - sum(lengths), self._limits.max_alternatives)
        beside = choose_alternatives(shares, _rows(taking) + sum(lengths), room, cost)
        plan = zip(taking, lengths, beside, strict=True)
        return [(session, session.rows(rows, length, others)) for (session, rows), length, others in plan]


def _rows(taking: Sequence[_Share]) -> int:
    return sum(rows for _, rows in taking)
