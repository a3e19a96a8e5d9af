"""A drafter inside the verifier process: asked between two steps, where that pays, with no network in between.

It is a guest: whatever it raises is logged, and switches it off; sessions go on without it. It computes in the worker
thread of the back end's steps while the loop waits, so that streams are served meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace

from paceline.core.errors import Conflict, PacelineError, Unavailable
from paceline.core.ports import Clock, Drafter
from paceline.core.types import Commit, DrafterInfo, DraftJob, Guess, Needs, SessionSpec, Tap
from paceline.drafters.reloading import Successor, open_all
from paceline.speculation.draft_length import Cost
from paceline.speculation.draft_tree import Path
from paceline.speculation.drafting import DraftingSession
from paceline.speculation.resident import Answer, ResidentPolicy, Seeker, can_drafts_pay
from paceline.speculation.session import VerifierSession
from paceline.telemetry.metrics import VerifierMetrics

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Seat:
    """A session as the drafter sees it."""

    drafting: DraftingSession
    is_open: bool = False
    question: _Question | None = None
    """For the step to come, if it was asked."""


@dataclass(eq=False, slots=True)
class _Question:
    """A question that was answered, and what was there then."""

    time_ns: tuple[int, int]
    """When, Unix time."""
    asked: int
    """Drafts that could be there now."""
    path: Path
    """Those that are."""


_Asked = Sequence[tuple[VerifierSession, _Seat, DraftJob]]


class Resident:
    """``drafter`` may be None: then nobody is ever asked."""

    def __init__(
        self, drafter: Drafter | None, clock: Clock, metrics: VerifierMetrics, worker: Executor | None = None
    ) -> None:
        self._drafter = drafter
        self._clock = clock
        self._metrics = metrics
        self._needs = drafter.info.needs if drafter is not None else Needs()
        self._is_own = worker is None
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="resident")
        self._policy = ResidentPolicy()
        self._seats: dict[str, _Seat] = {}
        self._closing: list[str] = []
        self._successor: Successor | None = None
        if drafter is not None:
            metrics.drafter_memory.observe(drafter.info.weights_bytes, 0)

    @property
    def info(self) -> DrafterInfo | None:
        """Who lives here; None when nobody does, or does no more."""
        if self._drafter is None:
            return None
        return replace(self._drafter.info, state_bytes=self._metrics.drafter_memory.most_state)

    async def settle(self) -> None:
        """Between two consultations: let a successor take over, with every session that the present one has."""
        successor = self._successor
        if successor is None:
            return
        former, self._closing = self._closing, []
        seats = [seat for seat in self._seats.values() if seat.is_open]
        specs = [seat.drafting.as_opened_now() for seat in seats]
        loop = asyncio.get_running_loop()
        error = await loop.run_in_executor(self._worker, open_all, successor.drafter, specs)
        self._successor = None
        if error is None:
            self._drafter = successor.drafter
            for seat in seats:
                seat.drafting.restart()
        else:
            self._closing = former + self._closing
        successor.settle(error)

    def succeed(self, drafter: Drafter) -> asyncio.Future[None]:
        """``drafter`` takes over with the next ``settle``; the future says how that went. Raises ``Conflict``."""
        if self._successor is not None:
            raise Conflict("Another drafter is about to take over here; ask again when that is done.")
        self._successor = Successor(drafter, asyncio.get_running_loop().create_future())
        return self._successor.done

    def join(self, state: VerifierSession, *, gives_features: bool) -> None:
        """Follow a session from its opening on, if it wants drafts."""
        if self._drafter is None or not state.spec.max_draft:
            return
        needs = self._needs if gives_features else Needs()
        if needs.hidden_states:
            state.listen(Tap(state.session, needs.hidden_states, max(1, needs.history)))
        self._policy.join(state.session, state.spec.profile)
        self._seats[state.session] = _Seat(
            DraftingSession(state.spec, max_window=self._drafter.info.max_window, needs=needs)
        )

    def leave(self, session: str) -> None:
        """Forget it; the drafter is told with the next call."""
        seat = self._seats.pop(session, None)
        if seat is not None and seat.is_open:
            self._closing.append(session)
        self._policy.forget(session)

    def committed(self, state: VerifierSession, commit: Commit) -> tuple[int, int] | None:
        """A step ended; returns when it was asked for that step, if it was.

        The hidden states behind the tokens are handed over as they are.
        """
        seat = self._seats.get(commit.session)
        if seat is None:
            return None
        question, seat.question = seat.question, None
        if question is not None:
            right = max(question.path.count_right(commit.token_ids), commit.accepted)
            answer = Answer(question.asked, commit.drafted, right, len(commit.token_ids))
            self._policy.answered(commit.session, answer)
        if commit.finish is None:  # rows beyond a last token that cut drafts off belong to nobody
            seat.drafting.commit(replace(commit, features=state.heard()))
        return question.time_ns if question is not None else None

    async def consult(self, ready: Sequence[VerifierSession], budget: int, cost: Cost) -> float:
        """Add guesses to the draft trees of those sessions for which asking pays; returns the seconds it took."""
        if self._drafter is None:
            return 0.0
        asked = self._asked(ready, budget, cost)
        if not asked and not self._closing:
            return 0.0
        started = self._clock.monotonic()
        try:
            await self._call(self._drafter, asked)
        except Exception:
            _log.exception("resident drafter failed, switched off", extra={"drafter": self._drafter.info.name})
            self._switch_off(ready)
        return self._clock.monotonic() - started

    def _asked(self, ready: Sequence[VerifierSession], budget: int, cost: Cost) -> _Asked:
        """Those for which asking pays, and those that want drafts whether that pays or not."""
        able = [(state, room) for state in ready if (room := self._room(state)) > 0]
        wanted = {state.session: room for state, room in able if state.spec.min_draft}
        seekers = [Seeker(one.session, len(one.path()), room) for one, room in able if one.session not in wanted]
        if seekers and can_drafts_pay(len(ready), budget, cost):
            wanted.update(self._policy.choose(seekers, len(ready), cost))
        asked = []
        for state, _ in able:
            seat = self._seats[state.session]
            job = seat.drafting.job(wanted.get(state.session, 0))
            if job is not None:
                asked.append((state, seat, job))
        return asked

    def _room(self, state: VerifierSession) -> int:
        """Tokens to ask for at most; none while the session isn't about to decode, has asked already, or has somebody
        else's guess."""
        seat, path = self._seats.get(state.session), state.path().token_ids
        if seat is None or seat.question is not None or state.num_pending > 1:
            return 0
        if seat.drafting.path[: len(path)] != path:
            return 0
        return min(state.max_path - len(path), seat.drafting.room)

    async def _call(self, drafter: Drafter, asked: _Asked) -> None:
        closing, self._closing = self._closing, []
        opening = [state.spec for state, seat, _ in asked if not seat.is_open]
        started, started_ns = self._clock.monotonic(), self._clock.time_ns()
        work = (drafter, closing, opening, [job for _, _, job in asked])
        guesses, memory = await asyncio.wrap_future(self._worker.submit(_compute, *work))
        self._metrics.drafter_memory.observe(drafter.info.weights_bytes, memory)
        seconds, ended_ns = self._clock.monotonic() - started, self._clock.time_ns()
        if not asked:
            return
        self._policy.called(len(asked), max(job.max_tokens for _, _, job in asked), seconds)
        self._metrics.draft_seconds.observe(seconds)
        for state, seat, job in asked:
            pending = len(state.path())
            self._take(state, seat, job, guesses.get(job.session))
            seat.question = _Question((started_ns, ended_ns), pending + job.max_tokens, state.path())

    def _take(self, state: VerifierSession, seat: _Seat, job: DraftJob, guess: Guess | None) -> None:
        if self._seats.get(state.session) is not seat:
            if guess is not None and not seat.is_open:
                self._closing.append(state.session)  # it was opened in this call, and left during it
            return
        if guess is None:  # the drafter has no room for it
            del self._seats[state.session]
            state.listen(Tap(state.session))
            return
        seat.is_open = True
        draft = seat.drafting.extend(job, guess)
        if draft is not None and draft.token_ids:
            self._metrics.drafted_tokens.inc(len(guess.token_ids))
            state.add(draft)
            state.arrivals.settled()  # a draft is there: nobody waits for another one

    def _switch_off(self, states: Sequence[VerifierSession]) -> None:
        self._drafter = None
        self._seats.clear()
        for state in states:
            state.listen(Tap(state.session))

    def stop(self) -> None:
        """Nobody consults any more. Lets go of the thread, unless it is the back end's."""
        if self._successor is not None:
            self._successor.settle(Unavailable("This verifier has ended; start it again."))
        if self._is_own:
            self._worker.shutdown(wait=False, cancel_futures=True)


def _compute(
    drafter: Drafter, closing: Sequence[str], opening: Sequence[SessionSpec], jobs: Sequence[DraftJob]
) -> tuple[dict[str, Guess], int]:
    """In the worker thread: guesses, and the memory of its sessions. Those that it refuses to open have no guess."""
    for session in closing:
        drafter.close(session)
    refused = set()
    for spec in opening:
        try:
            drafter.open(spec)
        except PacelineError as error:
            _log.info("resident drafter refused", extra={"session": spec.session, "reason": str(error)})
            refused.add(spec.session)
    served = [job for job in jobs if job.session not in refused]
    guesses = drafter.extend(served) if served else []
    return {job.session: guess for job, guess in zip(served, guesses, strict=True)}, drafter.state_bytes()
