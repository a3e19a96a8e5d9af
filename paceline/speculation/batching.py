"""What a verifier step runs: decoding first, then prefill in fair chunks, then as many drafts as pay. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.types import StepItem
from paceline.speculation.draft_length import StepCost, choose_lengths
from paceline.speculation.session import VerifierSession

DECODE_ROWS = 16
"""A session with at most this many missing rows counts as decoding."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one step."""

    token_budget: int
    """Rows at most."""
    prefill_chunk: int
    """Committed tokens of one session at most."""


class Batcher:
    """Plans one step after the other; remembers whose turn prefill is."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = 0

    def plan(self, ready: Sequence[VerifierSession], cost: StepCost) -> list[tuple[VerifierSession, StepItem]]:
        """Sessions that take part with their rows; never more rows than the budget, never a session twice."""
        decoding = [one for one in ready if one.num_pending <= DECODE_ROWS]
        prefilling = [one for one in ready if one.num_pending > DECODE_ROWS]
        budget = self._limits.token_budget
        taking: list[tuple[VerifierSession, int]] = []
        for session in self._fair(decoding) + self._fair(prefilling):
            rows = min(session.num_pending, self._limits.prefill_chunk, budget)
            if rows <= 0:
                break
            taking.append((session, rows))
            budget -= rows
        self._turn += 1
        lengths = self._draft_lengths(taking, budget, cost)
        return [(session, session.rows(rows, length)) for (session, rows), length in zip(taking, lengths, strict=True)]

    def _fair(self, sessions: list[VerifierSession]) -> list[VerifierSession]:
        """Another one first at every step."""
        if not sessions:
            return []
        first = self._turn % len(sessions)
        return sessions[first:] + sessions[:first]

    def _draft_lengths(self, taking: list[tuple[VerifierSession, int]], budget: int, cost: StepCost) -> list[int]:
        sampling = [rows == session.num_pending for session, rows in taking]
        chances = [
            session.acceptance.chances(session.path()) if samples else []
            for (session, _), samples in zip(taking, sampling, strict=True)
        ]
        return choose_lengths(chances, sum(rows for _, rows in taking), budget, cost)
