"""One session's life: opened at a verifier and a drafter, written to the store, shown to the client in that order.

Events of the pools come in by callbacks that never wait: a commit goes on to the drafter, and a draft to the
verifier, in the same call. One task per session does what takes time; commits that arrive while the store is busy
are written together. Losing the drafter costs speed; losing the verifier costs a reopening elsewhere, same bits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace

from coordinator.journal import Journal
from coordinator.metering import SpeculativeMeter
from coordinator.outlet import Outlet
from coordinator.output import OutputText, Piece
from coordinator.placing import Place
from coordinator.pools import Pool
from coordinator.requests import Admitted
from coordinator.tracing import record_request, record_wire
from coordinator.verdicts import SessionVerdicts
from paceline.core.errors import DeadlineExceeded, Fenced, Internal, PacelineError, Unavailable
from paceline.core.ports import Clock
from paceline.core.requests import Finished, Started, Usage
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    FinishReason,
    KvFrame,
    Pace,
    SessionSpec,
    Tap,
    TraceContext,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.speculation.fitting import can_draft, tap_for
from paceline.telemetry.metrics import CoordinatorMetrics
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import Tracer
from paceline.telemetry.verdicts import NoVerdicts, VerdictSink
from paceline.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

ABORT_S = 1.0
"""Time to write the end of a failed session to the store."""

SHUTTING_DOWN = "This coordinator is shutting down; send the request to another one."

VerifierPool = Pool[VerifierInfo, VerifierCommand, VerifierEvent]
DrafterPool = Pool[DrafterInfo, DrafterCommand, DrafterEvent]


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A piece of output on its way to the store, and the span of the step that made it."""

    piece: Piece
    step: TraceContext


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a coordinator share."""

    verifiers: VerifierPool
    drafters: DrafterPool
    tokenizer: Tokenizer | None
    clock: Clock
    tracer: Tracer
    metrics: CoordinatorMetrics
    window: int
    commit_credit: int
    verdicts: VerdictSink = field(default_factory=NoVerdicts)


class Session:
    """From admission to the last event; ``run`` is its task, all else is called by callbacks and the reader."""

    def __init__(self, admitted: Admitted, journal: Journal, around: Surroundings, arrived: float) -> None:
        self.outlet = Outlet()
        self._admitted = admitted
        self._journal = journal
        self._around = around
        self._arrived = arrived
        self._first_token: float | None = None
        self._text = OutputText(around.tokenizer, admitted.stop_strings)
        self._meter = SpeculativeMeter(admitted.max_draft)
        self._verdicts = SessionVerdicts(around.verdicts, admitted)
        self._output: list[int] = []
        self._unwritten: deque[_Unwritten] = deque()
        self._wake = asyncio.Event()
        self._finish: FinishReason | None = None
        self._cancel_reason = ""
        self._error: PacelineError | None = None
        self._setback = f"none with numerics id {admitted.verifier.numerics_id} is up"
        self._granted = 0
        self._tap = Tap(admitted.session)
        self._verifier = Place(
            admitted.session,
            around.verifiers,
            around.clock,
            on_event=self._on_verifier_event,
            on_gone=self._on_verifier_gone,
        )
        self._drafter = Place(
            admitted.session,
            around.drafters,
            around.clock,
            on_event=self._on_drafter_event,
            on_gone=self._on_drafter_gone,
        )

    async def run(self) -> None:
        """Never raises but when it is cancelled itself: the client gets the error."""
        around = self._around
        around.verifiers.subscribe(self._wake.set)
        around.drafters.subscribe(self._wake.set)
        try:
            async with asyncio.timeout(self._left_s):
                await self._run()
        except TimeoutError:
            await self._abort(self._too_late())
        except PacelineError as error:
            await self._abort(error)
        except asyncio.CancelledError:
            self.outlet.end(Unavailable(SHUTTING_DOWN))
            raise
        except Exception:
            _log.exception("session failed", extra={"session": self._admitted.session})
            await self._abort(Internal("The coordinator failed in this request; its log says why."))
        finally:
            self._release()
            around.verifiers.unsubscribe(self._wake.set)
            around.drafters.unsubscribe(self._wake.set)

    async def _run(self) -> None:
        admitted, tracer = self._admitted, self._around.tracer
        with tracer.span(Span.CREATE, admitted.trace):
            await self._journal.create()
        self.outlet.start(
            Started(
                admitted.request_id,
                admitted.session,
                len(admitted.prompt),
                admitted.sampling.seed,
                admitted.verifier.numerics_id,
                admitted.trace.trace_id,
            )
        )
        while True:
            self._wake.clear()
            if self._cancel_reason:
                await self._tell_store(self._cancel_reason)
                self._end(FinishReason.CANCELLED)
                return
            if self._error is not None:
                raise self._error
            if self._finish is None:
                self._place()
            if await self._write():
                return
            await self._sleep()

    async def _sleep(self) -> None:
        """Until something happens, or a member that refused may be asked again."""
        pauses = [pause for place in (self._verifier, self._drafter) if (pause := place.retry_in_s) is not None]
        try:
            async with asyncio.timeout(min(pauses, default=None)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _place(self) -> None:
        """Open the session wherever it is not open yet."""
        admitted = self._admitted
        if self._verifier.member is None:
            pinned = admitted.verifier.numerics_id
            if self._verifier.take(lambda info: info.numerics_id == pinned):
                self._verifier.send(self._spec())
                self._granted = 0
                self._grant()
                self._tap = Tap(admitted.session)
        wants_drafts = admitted.pace is not None and self._drafter.member is None
        is_new = wants_drafts and self._drafter.take(lambda info: can_draft(info, admitted.verifier)) is not None
        if is_new:
            pace = admitted.pace or Pace.PIPELINE
            self._drafter.send(replace(self._spec(), pace=pace, tenant=""))
        self._ask_for_features(is_new)

    def _ask_for_features(self, drafter_is_new: bool) -> None:
        """Behind the opening at once, so that the first step gives them; a new drafter gets what is still there."""
        tap = tap_for(self._admitted.session, self._drafter.info, self._verifier.info)
        if tap != self._tap or (drafter_is_new and not tap.is_empty):
            self._tap = tap
            self._verifier.send(tap)

    @property
    def _left_s(self) -> float:
        return self._admitted.budget_s - (self._around.clock.monotonic() - self._arrived)

    def _too_late(self) -> DeadlineExceeded:
        """Says what the request was waiting for in the end."""
        late = f"The request took longer than {round(self._admitted.budget_s, 2):g} s"
        if self._journal.is_waiting:
            return DeadlineExceeded(f"{late}, lastly waiting for the session store; check that it is up.")
        if self._finish is None and self._verifier.member is None:
            return DeadlineExceeded(f"{late}, lastly without a verifier ({self._setback}); start one.")
        return DeadlineExceeded(f"{late}; ask for less or allow more time.")

    def _spec(self) -> SessionSpec:
        admitted = self._admitted
        return SessionSpec(
            session=admitted.session,
            context=(*admitted.prompt, *self._output),
            prompt_length=len(admitted.prompt),
            sampling=admitted.sampling,
            stops=admitted.stops,
            max_draft=admitted.max_draft,
            min_draft=admitted.min_draft,
            profile=admitted.profile,
            window=max(self._around.window, admitted.max_draft),
            fan_out=admitted.fan_out,
            model_digest="",
            numerics_id=admitted.verifier.numerics_id,
            tokenizer_digest=admitted.verifier.tokenizer_digest,
            trace=admitted.trace,
            tenant=admitted.tenant,
            deadline_s=max(self._left_s, 0.001),
        )

    async def _write(self) -> bool:
        """Everything that waits goes to the store, then to the client; true after the last piece."""
        if not self._unwritten:
            return False
        waiting = list(self._unwritten)
        self._unwritten.clear()
        pieces = [one.piece for one in waiting]
        tokens = tuple(token for piece in pieces for token in piece.token_ids)
        finish = pieces[-1].finish
        with self._around.tracer.span(Span.STORE, waiting[0].step, {Attribute.TOKENS: len(tokens)}):
            if not await self._journal.append(tokens, finish):
                return False
        if self._first_token is None:
            self._first_token = self._around.clock.monotonic()
        self.outlet.put(tokens, "".join(piece.text for piece in pieces))
        if finish is None:
            return False
        self._end(finish)
        return True

    def on_read(self) -> None:
        """The client took something: the verifier may go on that much further."""
        if self._finish is None:
            self._grant()

    def _grant(self) -> None:
        """Credit moves in large strides, so that short outputs need no message at all."""
        credit = self._around.commit_credit
        until = self.outlet.num_read + credit
        if self._admitted.stops.max_tokens > credit and until >= self._granted + credit // 2:
            self._granted = until
            self._verifier.send(Credit(self._admitted.session, len(self._admitted.prompt) + until))

    def cancel(self, reason: str) -> bool:
        """Stop at once at verifier and drafter; false when the session had already ended."""
        if self._finish is not None or self._error is not None or self._cancel_reason:
            return False
        self._cancel_reason = reason
        self._release()
        self._journal.abandon()
        self._wake.set()
        return True

    def stop(self, error: PacelineError) -> None:
        """The client gets ``error`` now, whatever the session is waiting for."""
        self._error = self._error or error
        self._journal.abandon()
        self._wake.set()

    def _on_verifier_event(self, event: VerifierEvent) -> None:
        if isinstance(event, KvFrame) and self._tap.kv:
            self._meter.frame(event)
            self._drafter.send(event)
        if not isinstance(event, Commit) or self._finish is not None or self._cancel_reason:
            return
        position = len(self._admitted.prompt) + len(self._output)
        if event.start != position:
            self._on_misplaced(event, position)
            return
        self._drafter.send(replace(event, features=None) if self._tap.is_empty else event)
        self._meter.step(event)
        self._verdicts.committed(event, self._output)
        piece = self._text.push(event.token_ids, event.finish)
        self._output += piece.token_ids
        self._finish = piece.finish
        step = record_wire(self._around.tracer, self._around.clock, self._admitted, event)
        self._unwritten.append(_Unwritten(piece, step))
        if piece.finish is not None:
            self._release()
        self._wake.set()

    def _on_misplaced(self, commit: Commit, position: int) -> None:
        """A late one repeats what we have; behind a gap nothing that follows can be used, so the session moves on."""
        _log.warning("commit out of place", extra={"session": commit.session, "start": commit.start})
        if commit.start > position:
            self._verifier.send(Close(commit.session))
            self._verifier.shun()
            self._on_verifier_gone(Internal(f"a commit at {commit.start} instead of {position}"), is_retryable=True)

    def _on_drafter_event(self, event: DrafterEvent) -> None:
        if isinstance(event, Draft) and self._finish is None:
            self._verdicts.drafted(event, self._drafter.name)
            self._verifier.send(event)

    def _on_verifier_gone(self, error: PacelineError, is_retryable: bool) -> None:
        if self._finish is not None or self._cancel_reason:
            return
        _log.info("verifier gone", extra={"session": self._admitted.session, "reason": str(error)})
        self._around.metrics.fallbacks.labels("verifier").inc()
        self._setback = str(error)
        if not is_retryable:
            self._error = error
        self._wake.set()

    def _on_drafter_gone(self, error: PacelineError, is_retryable: bool) -> None:
        if self._finish is None and not self._cancel_reason:
            _log.info("drafter gone", extra={"session": self._admitted.session, "reason": str(error)})
            self._around.metrics.fallbacks.labels("drafter").inc()
            self._wake.set()

    def _release(self) -> None:
        """Nobody works for this session any more."""
        self._verifier.leave(Close(self._admitted.session))
        self._drafter.leave(Close(self._admitted.session))

    def _end(self, reason: FinishReason) -> None:
        now = self._around.clock.monotonic()
        first = now if self._first_token is None else self._first_token
        self._finish = reason
        usage = Usage(len(self._admitted.prompt), self._journal.num_tokens)
        finished = Finished(reason, usage, self._meter.result(), first - self._arrived, now - self._arrived)
        self._around.metrics.requests.labels(reason.value).inc()
        self._around.metrics.request_seconds.observe(finished.total_s)
        self._around.metrics.first_token_seconds.observe(finished.first_token_s)
        self._record(reason)
        self.outlet.end(finished)

    def _record(self, reason: FinishReason) -> None:
        clock = self._around.clock
        end = clock.time_ns()
        times = (end - int((clock.monotonic() - self._arrived) * 1e9), end)
        record_request(self._around.tracer, self._admitted, times, self._journal.num_tokens, reason)

    async def _abort(self, error: PacelineError) -> None:
        """The client gets ``error``; the store learns of the end when it can be told within a moment."""
        self._error = self._error or error
        self._release()
        if not isinstance(error, Fenced):  # the record is somebody else's now
            await self._tell_store(f"{error.code}: {error}")
        self._around.metrics.requests.labels(FinishReason.ERROR.value).inc()
        self._record(FinishReason.ERROR)
        self.outlet.end(error)

    async def _tell_store(self, reason: str) -> None:
        """Make the record terminal, so that nobody takes the session up again; if that takes long, let it expire."""
        try:
            async with asyncio.timeout(ABORT_S):
                await self._journal.cancel(reason)
        except Exception as failure:
            _log.warning("store not told", extra={"session": self._admitted.session, "reason": str(failure)})
