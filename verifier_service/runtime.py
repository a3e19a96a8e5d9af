"""The continuous batching loop: whoever is ready takes part in the next step; commits go out as it ends.

The loop is the only caller of the back end. Streams only touch pure session state, between steps or during them;
what needs the back end (open, close) waits for the loop. It never waits for a draft unless that pays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from paceline.config.settings import VerifierSettings
from paceline.core.errors import (
    Conflict,
    DeadlineExceeded,
    Internal,
    Mismatch,
    PacelineError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from paceline.core.ports import Clock, Drafter, VerifierBackend
from paceline.core.types import (
    Close,
    Credit,
    Draft,
    DrafterInfo,
    Drain,
    Refused,
    Sampler,
    SessionSpec,
    StepItem,
    StepResult,
    StepTimings,
    Tap,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.sampling.processors import validate
from paceline.speculation.batching import Batcher, Limits
from paceline.speculation.draft_length import Cost, StepCost
from paceline.speculation.features import check_taps
from paceline.speculation.session import VerifierSession
from paceline.speculation.waiting import wait_until
from paceline.telemetry.metrics import VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.wire.exchange import exchange
from paceline.wire.outbox import Outbox
from verifier_service.resident import Resident
from verifier_service.tracing import record_step

_log = logging.getLogger(__name__)
_Plan = Sequence[tuple[VerifierSession, StepItem]]


@dataclass(eq=False, slots=True)
class _Seat:
    """A session and whose it is."""

    state: VerifierSession
    outbox: Outbox[VerifierEvent]
    deadline: float | None
    ready_since: float
    is_open: bool = False


@dataclass(eq=False, slots=True)
class _Backlog:
    """What the loop has to tell the back end before its next step."""

    opening: list[_Seat] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)


class VerifierRuntime:
    """``core.ports.Runtime`` of a verifier; ``run`` must be running for sessions to advance."""

    def __init__(
        self,
        backend: VerifierBackend,
        settings: VerifierSettings,
        clock: Clock,
        *,
        tracer: Tracer,
        metrics: VerifierMetrics,
        resident: Resident | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._tracer = tracer
        self._metrics = metrics
        self._budget = settings.token_budget
        self._resident = resident or Resident(None, clock, metrics)
        self._batcher = Batcher(
            Limits(settings.token_budget, settings.prefill_chunk, backend.max_alternatives, settings.prefill_slowdown)
        )
        self._cost = StepCost()
        self._seats: dict[str, _Seat] = {}
        self._backlog = _Backlog()
        self._outboxes: set[Outbox[VerifierEvent]] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining: str | None = None

    @property
    def info(self) -> VerifierInfo:
        """What is served."""
        return replace(self._backend.info, resident=self._resident.info)

    @property
    def drafter_info(self) -> DrafterInfo | None:
        """Of the drafter that lives here."""
        return self._resident.info

    @property
    def num_sessions(self) -> int:
        """Sessions that are open or about to be."""
        return len(self._seats)

    async def attach(
        self, commands: AsyncIterator[Sequence[VerifierCommand]]
    ) -> AsyncGenerator[Sequence[VerifierEvent]]:
        """Serve one coordinator until its commands end; its sessions are closed with it."""
        outbox: Outbox[VerifierEvent] = Outbox()
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

    async def wait_idle(self) -> None:
        """Return when no session is left."""
        await self._idle.wait()

    async def swap(self, drafter: Drafter) -> None:
        """As ``drafters.reloading.Serving.swap``, between two steps."""
        done = self._resident.succeed(drafter)
        self._wake.set()
        await done

    def cut(self) -> None:
        """Refuse everybody who is left, so that their sessions go on elsewhere at once."""
        if self._draining is None:
            self.drain("ended")
        for seat in tuple(self._seats.values()):
            self._refuse(seat, Unavailable("This verifier has ended; open the session on another one."))

    def _handle(self, command: VerifierCommand, outbox: Outbox[VerifierEvent]) -> None:
        if isinstance(command, SessionSpec):
            self._admit(command, outbox)
            return
        seat = self._seats.get(command.session)
        if seat is None or seat.outbox is not outbox:
            return  # it has just ended, or was never this peer's
        if isinstance(command, Draft):
            self._take_draft(seat, command)
        elif isinstance(command, Credit):
            seat.state.grant(command)
        elif isinstance(command, Tap):
            self._take_tap(seat, command)
        elif isinstance(command, Close):
            self._leave(seat)
        self._wake.set()

    def _admit(self, spec: SessionSpec, outbox: Outbox[VerifierEvent]) -> None:
        former = self._seats.get(spec.session)
        if former is not None and former.outbox is not outbox:
            self._leave(former)  # its peer lost that stream sooner than we did, and opens the session again
        try:
            self._check(spec)
            state = VerifierSession(spec, max_context=self.info.max_context, vocab_size=self.info.vocab_size)
        except PacelineError as error:
            outbox.put(_refusal(spec.session, error))
            return
        now = self._clock.monotonic()
        seat = _Seat(state, outbox, now + spec.deadline_s if spec.deadline_s > 0 else None, now)
        self._seats[spec.session] = seat
        self._backlog.opening.append(seat)
        self._metrics.sessions.set(len(self._seats))
        self._idle.clear()
        self._wake.set()

    def _check(self, spec: SessionSpec) -> None:
        if self._draining is not None:
            raise Unavailable(f"This verifier is draining ({self._draining}); open the session on another one.")
        if spec.session in self._seats:
            raise Conflict(f"Session {spec.session} is already open here; close it first.")
        if len(self._seats) >= self.info.max_sessions:
            raise ResourceExhausted(f"All {self.info.max_sessions} session slots are taken; try another verifier.")
        if spec.sampling.sampler is not Sampler.COUPLED:
            raise Unsupported(f"sampler: {spec.sampling.sampler} is not served by this verifier; use coupled.")
        _require_same("model", spec.model_digest, self.info.model_digest)
        _require_same("tokenizer", spec.tokenizer_digest, self.info.tokenizer_digest)
        _require_same("numerics id", spec.numerics_id, self.info.numerics_id)
        validate(spec.sampling, self.info.vocab_size)

    def _take_draft(self, seat: _Seat, draft: Draft) -> None:
        """A bad draft costs its drafter the guess, never the session."""
        try:
            useful = seat.state.add(draft)
        except PacelineError as error:
            self._metrics.drafts_received.labels("invalid").inc()
            _log.warning("draft refused", extra={"session": draft.session, "reason": str(error)})
            return
        self._metrics.drafts_received.labels("useful" if useful else "late").inc()
        if useful or draft.base == seat.state.position:
            seat.state.arrivals.came(self._clock.monotonic(), bool(useful))

    def _take_tap(self, seat: _Seat, tap: Tap) -> None:
        """Who asks for what Describe says is not there gets an error, not silence."""
        try:
            check_taps(tap, self.info)
        except PacelineError as error:
            self._refuse(seat, error)
            return
        seat.state.tap(tap)

    def _leave(self, seat: _Seat) -> None:
        if self._seats.get(seat.state.session) is not seat:
            return
        del self._seats[seat.state.session]
        self._resident.leave(seat.state.session)
        if seat.is_open:
            self._backlog.closing.append(seat.state.session)
        elif seat in self._backlog.opening:
            self._backlog.opening.remove(seat)
        self._metrics.sessions.set(len(self._seats))
        if not self._seats:
            self._idle.set()
        self._wake.set()

    def _refuse(self, seat: _Seat, error: PacelineError) -> None:
        if self._seats.get(seat.state.session) is not seat:
            return  # it left meanwhile, and its id may be open again
        seat.outbox.put(_refusal(seat.state.session, error))
        self._leave(seat)

    async def run(self) -> None:
        """Step for ever. A failing step ends the process: the back end's memory is not to be trusted any more."""
        try:
            while True:
                self._settle()
                await self._resident.settle()
                ready = [seat.state for seat in self._seats.values() if seat.state.is_ready]
                if not ready:
                    await self._rest()
                    continue
                drafting_s = await self._resident.consult(ready, self._budget, self._cost.at(_mean_depth(ready)))
                ready = [state for state in ready if self._is_here(state)]
                if ready and not await self._waited(ready):
                    await self._step(ready, drafting_s)
        finally:
            self.cut()
            self._resident.stop()

    async def _rest(self) -> None:
        """Until somebody says something, or a session that waits for credit runs out of time."""
        self._wake.clear()
        deadlines = [seat.deadline for seat in self._seats.values() if seat.deadline is not None]
        # Timers fire a hair early or late: less than a millisecond is not waited for again and again.
        patience = max(min(deadlines) - self._clock.monotonic(), 0.001) if deadlines else None
        try:
            async with asyncio.timeout(patience):
                await self._wake.wait()
        except TimeoutError:
            return

    def _settle(self) -> None:
        """Between steps: close, open, and let go of whom nobody waits for any more."""
        for session in self._backlog.closing:
            self._backend.close(session)
        self._backlog.closing.clear()
        opening, self._backlog.opening = self._backlog.opening, []
        for seat in opening:
            self._open(seat)
        now = self._clock.monotonic()
        for seat in [one for one in self._seats.values() if one.deadline is not None and one.deadline <= now]:
            self._refuse(seat, DeadlineExceeded("The request's time is over; ask for less or allow more time."))

    def _open(self, seat: _Seat) -> None:
        """A session that can't be opened costs nobody else anything."""
        try:
            self._backend.open(seat.state.spec)
            seat.is_open = True
            self._resident.join(seat.state, gives_features=self.info.hidden_size > 0)
        except PacelineError as error:
            self._refuse(seat, error)
        except Exception:
            _log.exception("open failed", extra={"session": seat.state.session})
            self._backend.close(seat.state.session)
            self._refuse(seat, Internal("This verifier failed to open the session; its log says why."))

    async def _waited(self, ready: Sequence[VerifierSession]) -> bool:
        """Whether time went by for drafts that pay, so that everything must be looked at again."""
        now = self._clock.monotonic()
        plain = self._cost.at(_mean_depth(ready)).seconds(len(ready))
        until = wait_until([one.arrivals.expect(plain) for one in ready], now)
        if until is None:
            return False
        self._wake.clear()
        try:
            async with asyncio.timeout(until - now):
                await self._wake.wait()
        except TimeoutError:
            for one in ready:
                one.arrivals.missed()
        self._metrics.wait_seconds.inc(self._clock.monotonic() - now)
        return True

    async def _step(self, ready: Sequence[VerifierSession], drafting_s: float) -> None:
        plan = self._batcher.plan(ready, self._cost.at(_mean_depth(ready), drafting_s))
        offered = frozenset(state.session for state, _ in plan if state.path())
        started, started_ns = self._clock.monotonic(), self._clock.time_ns()
        result = await self._backend.step([item for _, item in plan])
        seconds = self._clock.monotonic() - started
        rows = sum(item.num_rows for _, item in plan)
        self._cost.observe(rows, seconds, sum(_reads(item) for _, item in plan) / rows)
        self._metrics.step_seconds.observe(seconds)
        self._metrics.step_rows.observe(rows)
        self._commit(plan, result, (started, started_ns), offered)

    def _commit(self, plan: _Plan, result: StepResult, start: tuple[float, int], offered: Collection[str]) -> None:
        started, started_ns = start
        now, rows = self._clock.monotonic(), sum(item.num_rows for _, item in plan)
        for (state, item), outcome in zip(plan, result.outcomes, strict=True):
            if not self._is_here(state):
                continue  # closed while the step ran
            seat = self._seats[state.session]
            timings = StepTimings(started - seat.ready_since, result.forward_s, result.sample_s, started_ns)
            commit = state.apply(outcome, timings)
            self._send_kv(seat)
            seat.ready_since = now
            fed = min(item.start + item.num_committed, state.spec.prompt_length) - item.start
            self._metrics.prefill_tokens.inc(max(0, fed))
            if commit is None:
                continue
            saved = len(commit.token_ids) - 1 - _price(item, rows, len(plan), self._cost.at(item.start))
            drafting_ns = self._resident.committed(state, commit)
            record_step(self._tracer, state.spec, commit, (started_ns, self._clock.time_ns()), drafting_ns)
            self._metrics.commit(commit)
            seat.outbox.put(commit)
            if state.session in offered:
                # Drafts that were there and not worth checking count too: waiting for such brings nothing.
                state.arrivals.verified(saved)
            self._expect_draft(state, now)
            if commit.finish is not None:
                self._leave(seat)

    def _send_kv(self, seat: _Seat) -> None:
        """Before the commit: whoever drafts behind it finds them there. Long prompts are sent while they are read."""
        for frame in seat.state.take_kv():
            self._metrics.kv(frame)
            seat.outbox.put(frame)

    def _is_here(self, state: VerifierSession) -> bool:
        """It may have left while the loop waited for somebody else, and its id may be open again."""
        seat = self._seats.get(state.session)
        return seat is not None and seat.state is state

    def _expect_draft(self, state: VerifierSession, now: float) -> None:
        if state.spec.max_draft and not state.path():
            state.arrivals.committed(now)
        else:
            state.arrivals.settled()


def _price(item: StepItem, rows: int, num_sessions: int, cost: Cost) -> float:
    """What the rows of an item's drafts cost in a step of ``rows``, in plain steps; nothing without any.

    All sessions of the step pay for them.
    """
    if not item.num_checked:
        return 0.0
    return num_sessions * (cost.seconds(rows) - cost.seconds(rows - item.num_checked)) / cost.seconds(num_sessions)


def _mean_depth(ready: Sequence[VerifierSession]) -> float:
    """Positions that a row of theirs attends to, once they decode."""
    return sum(state.position for state in ready) / max(1, len(ready))


def _reads(item: StepItem) -> float:
    """Positions that all its rows attend to."""
    return item.num_rows * (item.start + len(item.tokens) / 2)


def _refusal(session: str, error: PacelineError) -> Refused:
    return Refused(session, error.code, str(error), error.retryable)


def _require_same(what: str, wanted: str, ours: str) -> None:
    if wanted and ours and wanted != ours:
        raise Mismatch(
            f"The session wants {what} {wanted[:16]}, this verifier serves {ours[:16]}; open it on a matching one."
        )
