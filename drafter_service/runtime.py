"""Runs ahead for every session within its window, in batches, and rolls back as commits come.

One worker thread computes; the event loop keeps the sessions' state. A commit that overtakes a computation is
handled like any late draft: what still agrees is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from paceline.core.errors import Conflict, Internal, Mismatch, PacelineError, ResourceExhausted, Unavailable
from paceline.core.ports import Clock, Drafter
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    DraftJob,
    Drain,
    Guess,
    KvFrame,
    Pace,
    Refused,
    SessionSpec,
)
from paceline.drafters.reloading import Successor, open_all
from paceline.speculation.draft_length import StepCost
from paceline.speculation.drafting import DraftingSession
from paceline.speculation.lookahead import LEAST_REACH, choose_ends
from paceline.telemetry.metrics import DrafterMetrics
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import Tracer
from paceline.wire.exchange import exchange
from paceline.wire.outbox import Outbox

_log = logging.getLogger(__name__)

Params = ParamSpec("Params")
Result = TypeVar("Result")

PATIENCE_S = 0.004
"""A drafting call should take about this long: longer ones hold back tokens that are ready."""
PATIENCE = 0.15
"""The same as a share of the verifier's step, where that is longer: a step has no use for more messages."""
MOST_TOKENS = 64
"""Of a call, per context."""
MOST_JOBS = 64
"""Contexts of a call at most that are not on the paths of sessions which don't look ahead."""


@dataclass(eq=False, slots=True)
class _Seat:
    """A session and whose it is."""

    state: DraftingSession
    outbox: Outbox[DrafterEvent]


class DrafterRuntime:
    """``core.ports.Runtime`` of a drafter; ``run`` must be running for sessions to get drafts."""

    def __init__(
        self,
        drafter: Drafter,
        clock: Clock,
        *,
        tracer: Tracer,
        metrics: DrafterMetrics,
        worker: Executor | None = None,
        least_reach: float = LEAST_REACH,
    ) -> None:
        self._drafter = drafter
        self._least_reach = least_reach
        self._clock = clock
        self._tracer = tracer
        self._metrics = metrics
        metrics.drafter_memory.observe(drafter.info.weights_bytes, 0)
        self._seats: dict[str, _Seat] = {}
        self._opening: list[_Seat] = []
        self._closing: list[str] = []
        self._successor: Successor | None = None
        self._outboxes: set[Outbox[DrafterEvent]] = set()
        self._wake = asyncio.Event()
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="drafter")
        self._cost = StepCost()
        self._has_drafted = False
        self._draining: str | None = None

    @property
    def info(self) -> DrafterInfo:
        """What it is."""
        return replace(self._drafter.info, state_bytes=self._metrics.drafter_memory.most_state)

    @property
    def drafter_info(self) -> DrafterInfo:
        """The same."""
        return self.info

    @property
    def num_sessions(self) -> int:
        """Sessions that are open or about to be."""
        return len(self._seats)

    async def attach(self, commands: AsyncIterator[Sequence[DrafterCommand]]) -> AsyncGenerator[Sequence[DrafterEvent]]:
        """Serve one coordinator until its commands end; its sessions are closed with it."""
        outbox: Outbox[DrafterEvent] = Outbox()
        self._outboxes.add(outbox)
        if self._draining is not None:
            outbox.put(Drain(self._draining))
        try:
            async with aclosing(exchange(commands, lambda one: self._handle(one, outbox), outbox)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._outboxes.discard(outbox)
            for seat in [one for one in self._seats.values() if one.outbox is outbox]:
                self._leave(seat)

    def drain(self, reason: str) -> None:
        """Take no new sessions from now on."""
        self._draining = reason
        for outbox in self._outboxes:
            outbox.put(Drain(reason))

    def cut(self) -> None:
        """Refuse everybody who is left, so that their sessions look for another drafter at once."""
        if self._draining is None:
            self.drain("ended")
        for seat in tuple(self._seats.values()):
            self._refuse(seat, Unavailable("This drafter has ended; open the session on another one."))

    async def swap(self, drafter: Drafter) -> None:
        """As ``drafters.reloading.Serving.swap``."""
        if self._successor is not None:
            raise Conflict("Another drafter is about to take over here; ask again when that is done.")
        done = asyncio.get_running_loop().create_future()
        self._successor = Successor(drafter, done)
        self._wake.set()
        await done

    def _handle(self, command: DrafterCommand, outbox: Outbox[DrafterEvent]) -> None:
        if isinstance(command, SessionSpec):
            self._admit(command, outbox)
            return
        seat = self._seats.get(command.session)
        if seat is None or seat.outbox is not outbox:
            return  # it has just ended, or was never this peer's
        if isinstance(command, Commit):
            self._take_commit(seat, command)
        elif isinstance(command, KvFrame):
            self._take_kv(seat, command)
        elif isinstance(command, Credit):
            seat.state.grant(command)
        elif isinstance(command, Close):
            self._leave(seat)
        self._wake.set()

    def _admit(self, spec: SessionSpec, outbox: Outbox[DrafterEvent]) -> None:
        former = self._seats.get(spec.session)
        if former is not None and former.outbox is not outbox:
            self._leave(former)  # its peer lost that stream sooner than we did, and opens the session again
        try:
            self._check(spec)
            state = DraftingSession(
                spec, max_window=self.info.max_window, needs=self.info.needs, least_reach=self._least_reach
            )
            seat = _Seat(state, outbox)
        except PacelineError as error:
            outbox.put(Refused(spec.session, error.code, str(error), error.retryable))
            return
        self._seats[spec.session] = seat
        self._opening.append(seat)
        self._metrics.sessions.set(len(self._seats))
        self._wake.set()

    def _check(self, spec: SessionSpec) -> None:
        if self._draining is not None:
            raise Unavailable(f"This drafter is draining ({self._draining}); open the session on another one.")
        if spec.session in self._seats:
            raise Conflict(f"Session {spec.session} is already open here; close it first.")
        if len(self._seats) >= self.info.max_sessions:
            raise ResourceExhausted(f"All {self.info.max_sessions} sessions are taken; try another drafter.")
        ours = self.info.tokenizer_digest
        if ours and spec.tokenizer_digest and ours != spec.tokenizer_digest:
            raise Mismatch(
                f"The session has tokenizer {spec.tokenizer_digest[:12]}, this drafter {ours[:12]}; "
                "use a drafter with the target's tokenizer."
            )

    def _take_commit(self, seat: _Seat, commit: Commit) -> None:
        self._metrics.commit(commit)
        try:
            seat.state.commit(commit)
        except PacelineError as error:
            self._refuse(seat, error)

    def _take_kv(self, seat: _Seat, frame: KvFrame) -> None:
        self._metrics.kv(frame)
        try:
            seat.state.add_kv(frame)
        except PacelineError as error:
            self._refuse(seat, error)

    def _refuse(self, seat: _Seat, error: PacelineError) -> None:
        if self._seats.get(seat.state.session) is not seat:
            return  # it left meanwhile, and its id may be open again
        seat.outbox.put(Refused(seat.state.session, error.code, str(error), error.retryable))
        self._leave(seat)

    def _leave(self, seat: _Seat) -> None:
        if self._seats.get(seat.state.session) is not seat:
            return
        del self._seats[seat.state.session]
        if seat in self._opening:
            self._opening.remove(seat)
        else:
            self._closing.append(seat.state.session)
        self._metrics.sessions.set(len(self._seats))
        self._wake.set()

    async def run(self) -> None:
        """Guess for ever. A failing drafter ends the process; sessions go on without it."""
        try:
            while True:
                await self._settle()
                jobs = self._jobs()
                if jobs:
                    await self._draft(jobs)
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self.cut()
            if self._successor is not None:
                self._successor.settle(Unavailable("This drafter has ended; start it again."))
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _jobs(self) -> list[tuple[_Seat, DraftJob]]:
        """Paths first: a verifier may be waiting for one. Then other outcomes, where they are worth their time."""
        jobs: list[tuple[_Seat, DraftJob]] = []
        ahead: list[_Seat] = []
        for seat in self._seats.values():
            state = seat.state
            is_ahead = state.spec.pace is Pace.LOOKAHEAD and bool(state.path)
            is_awaited = not state.path and state.step_s > 0.0
            size = state.block(self._token_s) if is_awaited else self._chunk(state)
            if is_ahead:
                ahead.append(seat)
            elif job := state.job(size):
                jobs.append((seat, job))
        is_urgent = any(not seat.state.path for seat, _ in jobs)
        return jobs if is_urgent else jobs + self._outcomes(ahead, len(jobs))

    def _outcomes(self, seats: Sequence[_Seat], num_jobs: int) -> list[tuple[_Seat, DraftJob]]:
        """Where sessions that look ahead go on: on their paths, and behind what may be said instead."""
        ends = [(end, seat) for seat in seats for end in seat.state.open_ends()[: self._drafter.info.jobs_per_session]]
        ends.sort(key=lambda one: one[0].reach, reverse=True)
        ends = ends[: max(0, MOST_JOBS - num_jobs)]
        count = choose_ends([end.reach for end, _ in ends], num_jobs, self._cost.seconds)
        jobs = ((seat, seat.state.job_at(end.tail, self._chunk(seat.state))) for end, seat in ends[:count])
        return [(seat, job) for seat, job in jobs if job is not None]

    @property
    def _token_s(self) -> float:
        """Of one guess alone; 0 before the first."""
        return self._cost.seconds(1) if self._has_drafted else 0.0

    def _chunk(self, state: DraftingSession) -> int:
        """Tokens per call: as many as are ready within the patience, so that the first ones don't wait."""
        patience = max(PATIENCE_S, PATIENCE * state.step_s)
        return max(1, min(MOST_TOKENS, int(patience / self._token_s))) if self._token_s else MOST_TOKENS

    async def _settle(self) -> None:
        """Opening, closing and taking over happen in the worker's order, between computations."""
        while self._closing or self._opening or self._successor:
            closing, self._closing = self._closing, []
            opening, self._opening = self._opening, []
            errors = await self._in_worker(self._apply, closing, [seat.state.spec for seat in opening])
            for seat, error in zip(opening, errors, strict=True):
                if error is not None:
                    self._refuse(seat, error)
            if self._successor and not self._closing and not self._opening:
                await self._take_over(self._successor)

    async def _take_over(self, successor: Successor) -> None:
        """Every session is open at the present drafter; whoever comes or goes meanwhile is settled next."""
        seats = list(self._seats.values())
        specs = [seat.state.as_opened_now() for seat in seats]
        error = await self._in_worker(open_all, successor.drafter, specs)
        self._successor = None
        if error is None:
            self._drafter = successor.drafter
            for seat in seats:
                seat.state.restart()
        successor.settle(error)

    def _apply(self, closing: Sequence[str], opening: Sequence[SessionSpec]) -> list[PacelineError | None]:
        """In the worker thread."""
        for session in closing:
            self._drafter.close(session)
        errors: list[PacelineError | None] = []
        for spec in opening:
            try:
                self._drafter.open(spec)
                errors.append(None)
            except PacelineError as error:
                errors.append(error)
            except Exception:
                _log.exception("open failed", extra={"session": spec.session})
                self._drafter.close(spec.session)
                errors.append(Internal("This drafter failed to open the session; its log says why."))
        return errors

    async def _draft(self, jobs: Sequence[tuple[_Seat, DraftJob]]) -> None:
        started, started_ns = self._clock.monotonic(), self._clock.time_ns()
        drafter = self._drafter
        guesses, state = await self._in_worker(_extend, drafter, [job for _, job in jobs])
        self._metrics.drafter_memory.observe(drafter.info.weights_bytes, state)
        seconds, ended_ns = self._clock.monotonic() - started, self._clock.time_ns()
        longest = max(len(guess.token_ids) for guess in guesses)
        if longest:
            self._cost.observe(len(jobs), seconds / longest)
            self._has_drafted = True
        self._metrics.draft_seconds.observe(seconds)
        self._metrics.drafted_tokens.inc(sum(len(guess.token_ids) for guess in guesses))
        answers: dict[str, list[tuple[DraftJob, Guess]]] = {}
        for (_, job), guess in zip(jobs, guesses, strict=True):
            answers.setdefault(job.session, []).append((job, guess))
        for seat in dict.fromkeys(seat for seat, _ in jobs):
            if self._seats.get(seat.state.session) is seat:  # else it was closed while the worker computed
                self._send(seat, seat.state.extend_all(answers[seat.state.session]), (started_ns, ended_ns))

    def _send(self, seat: _Seat, draft: Draft | None, times_ns: tuple[int, int]) -> None:
        if draft is None:
            return
        attributes = {Attribute.POSITION: draft.base, Attribute.TOKENS: len(draft.token_ids)}
        self._tracer.record(Span.DRAFT, seat.state.spec.trace, times_ns, attributes)
        seat.outbox.put(draft)

    async def _in_worker(
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        return await asyncio.wrap_future(self._worker.submit(partial(function, *args, **kwargs)))


def _extend(drafter: Drafter, jobs: Sequence[DraftJob]) -> tuple[list[Guess], int]:
    """In the worker thread: guesses, and the memory of the sessions afterwards."""
    return drafter.extend(jobs), drafter.state_bytes()
