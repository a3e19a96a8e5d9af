"""Prompt lookup (Saxena, 2023): what followed the last occurrence of the latest n tokens in the same session."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.core.types import DrafterInfo, DraftJob, Guess, SessionSpec, Tokens
from paceline.drafters.seats import require_seat

SIZES = (4, 3, 2)
"""Tried in this order: longer matches are more often right."""
CONFIDENCES = {4: 0.75, 3: 0.6, 2: 0.4}
"""A first estimate; the verifier learns the real ones per session."""
TOKEN_BYTES = 200
"""Memory of a token in an index, as measured on texts of 500 to 20,000 tokens (170 to 220)."""


class NgramIndex:
    """Last occurrence of every n-gram in a growing list of tokens."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._ends: dict[Tokens, int] = {}

    def __len__(self) -> int:
        """Tokens."""
        return len(self._tokens)

    def grow(self, committed: Sequence[int]) -> None:
        """Take in the tokens that are new; ``committed`` extends what was given before."""
        known = len(self._tokens)
        self._tokens += committed[known:]
        # The newest n-gram of each size is left out until it has a successor.
        for end in range(max(known, 1), len(self._tokens)):
            for size in SIZES:
                if end >= size:
                    self._ends[tuple(self._tokens[end - size : end])] = end

    def follow(self, context: Sequence[int], max_tokens: int) -> tuple[Tokens, float]:
        """What followed the longest known end of ``context``, and how far to trust it."""
        for size in SIZES:
            end = self._ends.get(tuple(context[-size:])) if len(context) >= size else None
            if end is not None:
                return tuple(self._tokens[end : end + max_tokens]), CONFIDENCES[size]
        return (), 0.0


class NgramDrafter:
    """``core.ports.Drafter`` without a model."""

    def __init__(self, max_sessions: int) -> None:
        self.info = DrafterInfo(name="ngram", max_sessions=max_sessions)
        self._indexes: dict[str, NgramIndex] = {}

    def open(self, spec: SessionSpec) -> None:
        """Index the context."""
        require_seat(self._indexes, self.info)
        index = self._indexes[spec.session] = NgramIndex()
        index.grow(spec.context)

    def close(self, session: str) -> None:
        """Forget it."""
        self._indexes.pop(session, None)

    def state_bytes(self) -> int:
        """Estimated from the number of tokens."""
        return TOKEN_BYTES * sum(len(one) for one in self._indexes.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Copy what followed last time."""
        return [self._extend(job) for job in jobs]

    def _extend(self, job: DraftJob) -> Guess:
        index = self._indexes[job.session]
        index.grow(job.context[: job.committed])
        tokens, confidence = index.follow(job.context, job.max_tokens)
        return Guess(job.session, tokens, (confidence,) * len(tokens))
