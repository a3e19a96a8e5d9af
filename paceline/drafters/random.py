"""Guesses at random: the worst drafter there is, to show that text never depends on drafts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.core.types import DrafterInfo, DraftJob, Guess, SessionSpec
from paceline.drafters.seats import require_seat


class RandomDrafter:
    """``core.ports.Drafter`` that is confidently wrong."""

    def __init__(self, max_sessions: int, vocab_size: int, seed: int = 0) -> None:
        self.info = DrafterInfo(name="random", max_sessions=max_sessions, vocab_size=vocab_size)
        self._sessions: set[str] = set()
        self._random = np.random.default_rng(seed)

    def open(self, spec: SessionSpec) -> None:
        """Nothing to prepare but a seat."""
        require_seat(self._sessions, self.info)
        self._sessions.add(spec.session)

    def close(self, session: str) -> None:
        """Free the seat."""
        self._sessions.discard(session)

    def state_bytes(self) -> int:
        """Nothing is kept of a text."""
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """As many tokens as asked for."""
        return [self._extend(job) for job in jobs]

    def _extend(self, job: DraftJob) -> Guess:
        tokens = self._random.integers(self.info.vocab_size, size=job.max_tokens).tolist()
        return Guess(job.session, tuple(tokens), (0.9,) * len(tokens))
