"""A session as its drafter sees it, pure: what to guess next, and what a commit leaves of the guesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from paceline.core.errors import Gap, InvalidRequest
from paceline.core.types import (
    Commit,
    Credit,
    Draft,
    DraftJob,
    FeatureFrame,
    Guess,
    KvFrame,
    Needs,
    Pace,
    SessionSpec,
    Tokens,
)
from paceline.speculation.features import FeatureWindow, KvWindow, check_frame, check_kv
from paceline.speculation.lookahead import LEAST_REACH, GuessTree, WayOn, best_block

STEP_RATE = 0.1
"""Weight of the newest step's time."""


class DraftingSession:
    """Runs ahead within its window, as its pace allows; rolls back to the last token that a commit confirms."""

    def __init__(
        self,
        spec: SessionSpec,
        *,
        max_window: int,
        needs: Needs | None = None,
        least_reach: float = LEAST_REACH,
    ) -> None:
        if not spec.context or not 0 < spec.prompt_length <= len(spec.context):
            raise InvalidRequest("context: it needs at least one token, and prompt_length must lie inside it.")
        self.spec = spec
        self._committed = list(spec.context)
        self._guesses = GuessTree(spec.fan_out, keeps_others=spec.pace is Pace.LOOKAHEAD, least_reach=least_reach)
        self._window = max(0, min(spec.window, max_window))
        self._end = spec.prompt_length + spec.stops.max_tokens
        self._credit: int | None = None
        self._step_s = 0.0
        self._num_unchecked = 0
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
        return len(self.path)

    @property
    def path(self) -> Tokens:
        """These tokens."""
        return self._guesses.path

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
        took_s = commit.timings.forward_s + commit.timings.sample_s
        self._step_s = took_s if self._step_s == 0.0 else self._step_s + STEP_RATE * (took_s - self._step_s)
        self._notice_losses(commit)
        self._guesses.advance(fresh)
        if self.spec.pace is Pace.SYNC:
            self._guesses.clear()

    def _notice_losses(self, commit: Commit) -> None:
        """A verifier that checks nothing of what was sent may not have it: it is told again, ever more rarely."""
        if commit.drafted:
            self._num_unchecked = 0
        elif self._guesses.has_sent:
            self._num_unchecked += 1
            if self._num_unchecked > 1 and self._num_unchecked.bit_count() == 1:
                self._guesses.forget_sent()

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
        self._guesses.clear()

    def as_opened_now(self) -> SessionSpec:
        """What somebody else must know to take the session up at this point."""
        return replace(self.spec, context=tuple(self._committed))

    def _check_features(self, frame: FeatureFrame, committed: int) -> None:
        check_frame(frame, committed)
        wanted = self._needs.feature_bytes
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
        """Tokens that may be guessed on the path now; none while the window is full or nothing comes to mind."""
        path = self.path
        if self._guesses.is_dry(path) or (path and self.spec.pace is Pace.SYNC):
            return 0
        return max(0, self._reach - len(path))

    def job(self, max_tokens: int) -> DraftJob | None:
        """What to guess next on the path, at most ``max_tokens``; None where there is no room."""
        return self.job_at(self.path, min(self.room, max_tokens))

    def job_at(self, tail: Tokens, max_tokens: int) -> DraftJob | None:
        """The same behind these guesses, which are an end of the path or of an alternative."""
        room = min(self._reach - len(tail), max_tokens)
        if room <= 0:
            return None
        frame = self._features.take()
        features = () if frame is None else (frame,)
        return DraftJob(self.session, (*self._committed, *tail), self.position, room, features, tuple(self._take_kv()))

    def _take_kv(self) -> Iterator[KvFrame]:
        """Of committed tokens but the newest one, whose row is not computed yet."""
        for kind, window in self._kv.items():
            rows = window.take(self.position - 1)
            if rows is not None:
                yield KvFrame(self.session, kind, rows)

    def block(self, token_s: float) -> int:
        """Tokens to guess in one go for a verifier that waits for them, of ``token_s`` seconds each."""
        return best_block(self._guesses.odds.rate, token_s, self._step_s, self._window)

    @property
    def step_s(self) -> float:
        """Time of a verifier's step, as commits say; 0 before the first."""
        return self._step_s

    def open_ends(self) -> list[WayOn]:
        """Looking ahead: where to go on, the likeliest outcome first; nowhere otherwise."""
        return self._guesses.open_ends(self._reach) if self.spec.pace is Pace.LOOKAHEAD else []

    @property
    def _reach(self) -> int:
        """Guesses may be this many tokens ahead."""
        return max(0, min(self._window, self._last - self.position))

    @property
    def _last(self) -> int:
        """Guesses are below this position; the target adds the very last token itself."""
        return self._end - 1 if self._credit is None else min(self._end - 1, self._credit)

    def extend(self, job: DraftJob, guess: Guess) -> Draft | None:
        """As ``extend_all``, with one answer."""
        return self.extend_all([(job, guess)])

    def extend_all(self, answers: Sequence[tuple[DraftJob, Guess]]) -> Draft | None:
        """What is to be sent now; an empty draft says "nothing", once per position: it is not asked again.

        A guess for a context that a commit has overtaken is judged like any late draft.
        """
        if any([self._take(job, guess) for job, guess in answers]):
            return self._guesses.news(self.session, self.position, self._reach)
        return Draft(self.session, self.position, ()) if self._guesses.is_dry(()) and not self.path else None

    def _take(self, job: DraftJob, guess: Guess) -> bool:
        """Whether something new came of it."""
        tail = (*job.context[job.committed :], *guess.token_ids)
        late = self.position - job.committed
        if tail[:late] != tuple(self._committed[job.committed :]):
            return False
        has_news = bool(guess.token_ids) and late < len(tail) and self._guesses.grow(tail[late:], guess, self.position)
        if late == 0 and len(guess.token_ids) < job.max_tokens:
            self._guesses.mark_dry(tail)
        return has_news
