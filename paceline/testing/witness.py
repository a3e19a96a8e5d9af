"""A drafter that needs the target's state and writes down all that it gets, for tests that know what it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paceline.core.types import DrafterInfo, DraftJob, FeatureFrame, Guess, Needs, SessionSpec, Tokens


class FeatureWitness:
    """``core.ports.Drafter`` that says what ``guess`` says of a context.

    Its guesses come as they please; what it testifies is ``jobs``, in order, and by session and position ``rows`` of
    hidden states and ``kv`` of keys and values, by kind.
    """

    def __init__(self, needs: Needs, guess: Callable[[Tokens], Tokens], max_sessions: int = 8) -> None:
        self.info = DrafterInfo(name="witness", needs=needs, max_sessions=max_sessions)
        self.jobs: list[DraftJob] = []
        self.rows: dict[str, dict[int, bytes]] = {}
        self.kv: dict[str, dict[str, dict[int, bytes]]] = {}
        self._guess = guess

    def open(self, spec: SessionSpec) -> None:
        """Begin a session's rows, anew when it comes again."""
        self.rows[spec.session] = {}
        self.kv[spec.session] = {shape.kind: {} for shape in self.info.needs.kv}

    def close(self, session: str) -> None:
        """Rows stay, for the test to read."""

    def state_bytes(self) -> int:
        """Of the rows that were kept."""
        return sum(len(row) for rows in self.rows.values() for row in rows.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Keep what came."""
        for job in jobs:
            self.jobs.append(job)
            for frame in job.features:
                self._keep(self.rows[job.session], frame)
            for one in job.kv:
                self._keep(self.kv[job.session][one.kind], one.rows)
        return [Guess(job.session, self._guess(job.context)[: job.max_tokens]) for job in jobs]

    def _keep(self, rows: dict[int, bytes], frame: FeatureFrame) -> None:
        for index in range(frame.num_rows):
            rows[frame.start + index] = frame.bf16[index * frame.row_bytes : (index + 1) * frame.row_bytes]
