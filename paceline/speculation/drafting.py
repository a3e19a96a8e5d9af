"""A session as its drafter sees it, pure: what to guess next, and what a commit leaves of the guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from paceline.core.errors import Gap, InvalidRequest
from paceline.core.types import (
    Branch,
    Commit,
    Credit,
    Draft,
    DraftJob,
    FeatureFrame,
    Guess,
    KvFrame,
    Needs,
    SessionSpec,
    Tokens,
)
from paceline.speculation.features import BF16_BYTES, FeatureWindow, KvWindow, check_frame, check_kv


class DraftingSession:
    """Runs ahead on one path within its window; rolls back to the last token that a commit confirms."""

    def __init__(self, spec: SessionSpec, *, max_window: int, needs: Needs | None = None) -> None:
        if not spec.context or not 0 < spec.prompt_length <= len(spec.context):
            raise InvalidRequest("context: it needs at least one token, and prompt_length must lie inside it.")
        self.spec = spec
        self._committed = list(spec.context)
        self._path: list[int] = []
        self._confidences: list[float] = []
        self._branches: tuple[Branch, ...] = ()
        self._window = max(0, min(spec.window, max_window))
        self._end = spec.prompt_length + spec.stops.max_tokens
        self._credit: int | None = None
        self._is_dry = False
        self._needs = needs or Needs()
        self._features = FeatureWindow(self._needs.history)
        self._kv = {shape.kind: KvWindow(shape.history) for shape in self._needs.kv}

    @property
    def session(self) -> str:
        """Its id."""
        return self.spec.session

    @property
    def position(self) -> int:
        """Number of committed tokens."""
        return len(self._committed)

    @property
    def num_pending(self) -> int:
        """Guessed tokens that no commit has judged yet."""
        return len(self._path)

    @property
    def path(self) -> Tokens:
        """These tokens."""
        return tuple(self._path)

    def commit(self, commit: Commit) -> None:
        """Keep the path where it agrees, else start anew. Doubled commits are fine; raises ``Gap`` for missing ones.

        Raises ``InvalidRequest`` for hidden states that the drafter doesn't know or whose tokens are not committed.
        """
        if commit.start > self.position:
            raise Gap(f"Commit at {commit.start}, but only {self.position} tokens are known; open the session again.")
        fresh = commit.token_ids[self.position - commit.start :]
        if not fresh:
            return
        if commit.features is not None and self._needs.hidden_states:
            self._check_features(commit.features, commit.start + len(commit.token_ids))
            self._features.add(commit.features)
        self._committed += fresh
        if tuple(self._path[: len(fresh)]) == fresh:
            del self._path[: len(fresh)], self._confidences[: len(fresh)]
            self._branches = self._fitting(self._branches)
        else:  # a branch that foresaw it is at the verifier already; what is guessed anew knows more
            self._path, self._confidences, self._branches = [], [], ()
        self._is_dry = False

    def add_kv(self, frame: KvFrame) -> None:
        """Keep rows until their tokens are committed. Raises ``InvalidRequest`` for those of another model."""
        shape = next((one for one in self._needs.kv if one.kind == frame.kind), None)
        if shape is None:
            return
        check_kv(frame, shape, self._end)
        self._kv[frame.kind].add(frame.rows)

    def restart(self) -> None:
        """Forget the guesses: who guesses from now on begins at the last commit, with all frames still here."""
        self._features.rewind()
        for window in self._kv.values():
            window.rewind()
        self._path, self._confidences, self._branches, self._is_dry = [], [], (), False

    def as_opened_now(self) -> SessionSpec:
        """What somebody else must know to take the session up at this point."""
        return replace(self.spec, context=tuple(self._committed))

    def _check_features(self, frame: FeatureFrame, committed: int) -> None:
        check_frame(frame, committed)
        wanted = len(self._needs.hidden_states) * self._needs.hidden_size * BF16_BYTES
        if wanted and frame.row_bytes != wanted:
            raise InvalidRequest(
                f"features: rows of {frame.row_bytes} bytes, but {len(self._needs.hidden_states)} hidden states of "
                f"{self._needs.hidden_size} numbers have {wanted}; use the target that the drafter was made for."
            )

    def grant(self, credit: Credit) -> None:
        """Guesses may reach up to here."""
        self._credit = max(self._credit or 0, credit.until)

    @property
    def room(self) -> int:
        """Tokens that may be guessed now; none while the window is full or nothing comes to mind."""
        room = min(self._window - len(self._path), self._last - self.position - len(self._path))
        return 0 if self._is_dry else max(0, room)

    def job(self, max_tokens: int) -> DraftJob | None:
        """What to guess next, at most ``max_tokens``; None where there is no room."""
        room = min(self.room, max_tokens)
        if room <= 0:
            return None
        frame = self._features.take()
        features = () if frame is None else (frame,)
        return DraftJob(
            self.session, (*self._committed, *self._path), self.position, room, features, tuple(self._take_kv())
        )

    def _take_kv(self) -> Iterator[KvFrame]:
        """Of committed tokens but the newest one, whose row is not computed yet."""
        for kind, window in self._kv.items():
            rows = window.take(self.position - 1)
            if rows is not None:
                yield KvFrame(self.session, kind, rows)

    def _fitting(self, branches: Sequence[Branch]) -> tuple[Branch, ...]:
        """Those that leave the path at positions that are still open, within window, credit and fan-out."""
        end, taken, kept = min(self.position + self._window, self._last), Counter[int](), []
        for branch in branches:
            room = end - branch.position
            if branch.position < self.position or room <= 0 or taken[branch.position] >= self.spec.fan_out:
                continue
            taken[branch.position] += 1
            kept.append(replace(branch, token_ids=branch.token_ids[:room], confidences=branch.confidences[:room]))
        return tuple(kept)

    @property
    def _last(self) -> int:
        """Guesses are below this position; the target adds the very last token itself."""
        return self._end - 1 if self._credit is None else min(self._end - 1, self._credit)

    def extend(self, job: DraftJob, guess: Guess) -> Draft | None:
        """The whole path with the new tokens; an empty draft says "nothing", once per position: it is not asked again.

        A guess for a context that a commit has overtaken is judged like any late draft.
        """
        tail = list(job.context[job.committed :]) + list(guess.token_ids)
        late = self.position - job.committed
        if tail[:late] != self._committed[job.committed :]:
            return None
        if not guess.token_ids:
            self._is_dry = late == 0
            return Draft(self.session, self.position, ()) if self._is_dry and not self._path else None
        known = len(tail) - len(guess.token_ids)
        if late <= known:
            self._path += guess.token_ids
            self._confidences += self._certain(guess)
        else:
            self._path = tail[late:]
            self._confidences = self._certain(guess)[len(guess.token_ids) - len(self._path) :]
        self._is_dry = late == 0 and len(guess.token_ids) < job.max_tokens
        if not self._path:
            return None
        self._branches = self._fitting(self._branches + guess.branches)
        return Draft(self.session, self.position, tuple(self._path), tuple(self._confidences), self._branches)

    @staticmethod
    def _certain(guess: Guess) -> list[float]:
        return list(guess.confidences) or [0.5] * len(guess.token_ids)
