"""All requests of this coordinator: admits them, runs their sessions, answers Cancel and Describe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from coordinator.journal import Journal
from coordinator.requests import Admitted, admit, check_request_id
from coordinator.session import SHUTTING_DOWN, Session, Surroundings
from paceline import __version__
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import Conflict, ResourceExhausted, Unavailable
from paceline.core.ports import SessionStore
from paceline.core.requests import CoordinatorInfo, Finished, GenerateEvent, GenerateRequest, PoolMember
from paceline.core.types import DrafterInfo, VerifierInfo
from paceline.speculation.fitting import misfit
from paceline.telemetry.names import Span

VERIFIER_WAIT_S = 10.0
"""A request waits this long for any verifier to come up."""
STOP_S = 5.0
"""Requests that are stopped end within this time: a store that is away may take most of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What Describe says beyond the pools."""

    owner: str
    store: str
    metrics: str


class CoordinatorRuntime:
    """``run`` must be running for requests to advance."""

    def __init__(
        self, settings: CoordinatorSettings, around: Surroundings, store: SessionStore, identity: Identity
    ) -> None:
        self._settings = settings
        self._around = around
        self._store = store
        self._identity = identity
        self._sessions: dict[str, Session] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False

    @property
    def num_requests(self) -> int:
        """Requests that are running."""
        return len(self._sessions)

    async def run(self) -> None:
        """Keep the pools connected and the sessions running, for ever."""
        around = self._around
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                around.verifiers.start(tasks)
                around.drafters.start(tasks)
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    async def wait_ready(self, unless: asyncio.Event | None = None) -> None:
        """Return once a verifier is up, or ``unless`` is set."""
        waits = [asyncio.ensure_future(self._until_healthy())]
        if unless is not None:
            waits.append(asyncio.ensure_future(unless.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _until_healthy(self) -> bool:
        pool, changed = self._around.verifiers, asyncio.Event()
        pool.subscribe(changed.set)
        try:
            while not pool.healthy():
                changed.clear()
                await changed.wait()
        finally:
            pool.unsubscribe(changed.set)
        return True

    async def drain(self, grace_s: float) -> None:
        """Take no new requests; give running ones ``grace_s`` to end, then end them with an error."""
        self._draining = True
        if not await self._is_idle_within(grace_s):
            for session in self._sessions.values():
                session.stop(Unavailable(SHUTTING_DOWN))
            await self._is_idle_within(STOP_S)

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._idle.wait()
        except TimeoutError:
            return False

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Started, any number of Chunks, Finished; leaving early cancels. Raises ``PacelineError``."""
        session = await self._start(request)
        try:
            while True:
                event = await session.outlet.take()
                session.on_read()
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            session.cancel("The client went away.")

    async def _start(self, request: GenerateRequest) -> Session:
        arrived = self._around.clock.monotonic()
        request_id = check_request_id(request.request_id)
        self._check_load(request_id)
        verifier = await self._some_verifier(min(VERIFIER_WAIT_S, request.deadline_s or VERIFIER_WAIT_S))
        tasks = self._check_load(request_id)
        start = self._around.clock.time_ns()
        admitted = admit(request, self._settings, self._around.tokenizer, verifier, request_id)
        self._around.tracer.record(Span.TOKENIZE, admitted.trace, (start, self._around.clock.time_ns()))
        self._around.tracer.name_trace(request_id, admitted.trace.trace_id)
        return self._launch(tasks, admitted, arrived)

    def _check_load(self, request_id: str) -> asyncio.TaskGroup:
        """Where the request's session may run."""
        if self._draining or self._tasks is None:
            raise Unavailable("This coordinator is not serving (starting or shutting down); try another one.")
        if request_id in self._sessions:
            raise Conflict(f"request_id {request_id} is already running here; choose another or leave it empty.")
        if len(self._sessions) >= self._settings.max_requests:
            raise ResourceExhausted(
                f"{self._settings.max_requests} requests are running already; try again in a moment."
            )
        return self._tasks

    def _launch(self, tasks: asyncio.TaskGroup, admitted: Admitted, arrived: float) -> Session:
        journal = Journal(self._store, admitted, self._identity.owner)
        session = Session(admitted, journal, self._around, arrived)
        self._sessions[admitted.request_id] = session
        self._idle.clear()
        self._around.metrics.sessions.set(len(self._sessions))
        task = tasks.create_task(self._run_session(admitted.request_id, session), name=f"session {admitted.session}")
        # A task that is cancelled before its first step runs nothing of its own.
        task.add_done_callback(lambda _: session.outlet.end(Unavailable(SHUTTING_DOWN)))
        return session

    async def _run_session(self, request_id: str, session: Session) -> None:
        """Forgotten before the client can read its end: the client may use the id again at once."""
        try:
            await session.run()
        finally:
            del self._sessions[request_id]
            self._around.metrics.sessions.set(len(self._sessions))
            if not self._sessions:
                self._idle.set()

    async def _some_verifier(self, patience_s: float) -> VerifierInfo:
        """What a session is pinned to: the least loaded member that is up."""
        pool = self._around.verifiers
        try:
            async with asyncio.timeout(patience_s):
                await self._until_healthy()
        except TimeoutError:
            reasons = "; ".join(member.detail for member in pool) or "none is configured"
            raise Unavailable(f"No verifier is up ({reasons}). Start one, or check the addresses.") from None
        members = [member for member in pool.healthy() if member.info is not None]
        chosen = min(members, key=lambda member: (member.num_sessions, member.address))
        if chosen.info is None:
            raise Unavailable("The verifier went away; try again.")
        return chosen.info

    def cancel(self, request_id: str) -> bool:
        """False when it is not running here (any more)."""
        session = self._sessions.get(request_id)
        return session is not None and session.cancel("Cancelled by the client.")

    def describe(self) -> CoordinatorInfo:
        """Pools, store and limits."""
        tokenizer = self._around.tokenizer
        return CoordinatorInfo(
            version=__version__,
            drafters=tuple(self._judge(member) for member in self._around.drafters.describe()),
            verifiers=self._around.verifiers.describe(),
            store=self._identity.store,
            has_chat_template=tokenizer is not None and tokenizer.has_chat_template,
            metrics=self._identity.metrics,
        )

    def _judge(self, drafter: PoolMember) -> PoolMember:
        """A drafter that fits none of the verifiers is not healthy, and this is the place to say why."""
        verifiers = [member.info for member in self._around.verifiers if member.info is not None]
        if not drafter.healthy or not isinstance(drafter.info, DrafterInfo) or not verifiers:
            return drafter
        reasons = [misfit(drafter.info, verifier) for verifier in verifiers]
        return replace(drafter, healthy=False, detail=reasons[0]) if all(reasons) else drafter
