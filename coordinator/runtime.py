"""All requests of this coordinator: admits them, runs their sessions, answers Cancel and Describe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from coordinator.journal import Journal
from coordinator.requests import Admitted, admit, check_request_id
from coordinator.session import Session, Surroundings
from paceline import __version__
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import Conflict, ResourceExhausted, Unavailable
from paceline.core.ports import SessionStore
from paceline.core.requests import CoordinatorInfo, Finished, GenerateEvent, GenerateRequest
from paceline.core.types import VerifierInfo
from paceline.telemetry.names import Span

VERIFIER_WAIT_S = 10.0
"""A request waits this long for any verifier to come up."""


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
        self._tasks: asyncio.TaskGroup | None = None
        self._draining = False

    async def run(self) -> None:
        """Keep the pools connected and the sessions running, for ever."""
        around = self._around
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            around.verifiers.start(tasks)
            around.drafters.start(tasks)

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
        while not self._around.verifiers.healthy():
            changed = asyncio.Event()
            self._around.verifiers.subscribe(changed.set)
            await changed.wait()
            self._around.verifiers.unsubscribe(changed.set)
        return True

    async def drain(self, grace_s: float) -> None:
        """Take no new requests; give running ones ``grace_s`` to end."""
        self._draining = True
        waiting = [asyncio.ensure_future(session.ended.wait()) for session in self._sessions.values()]
        if waiting:
            _, unfinished = await asyncio.wait(waiting, timeout=grace_s)
            for one in unfinished:
                one.cancel()

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
        request_id = check_request_id(request.request_id)
        self._check_load(request_id)
        verifier = await self._some_verifier(min(VERIFIER_WAIT_S, request.deadline_s or VERIFIER_WAIT_S))
        self._check_load(request_id)
        start = self._around.clock.time_ns()
        admitted = admit(request, self._settings, self._around.tokenizer, verifier, request_id)
        self._around.tracer.record(Span.TOKENIZE, admitted.trace, (start, self._around.clock.time_ns()))
        self._around.tracer.name_trace(request_id, admitted.trace.trace_id)
        return self._launch(admitted)

    def _check_load(self, request_id: str) -> None:
        if self._draining or self._tasks is None:
            raise Unavailable("This coordinator is not serving (starting or shutting down); try another one.")
        if request_id in self._sessions:
            raise Conflict(f"request_id {request_id} is already running here; choose another or leave it empty.")
        if len(self._sessions) >= self._settings.max_requests:
            raise ResourceExhausted(
                f"{self._settings.max_requests} requests are running already; try again in a moment."
            )

    def _launch(self, admitted: Admitted) -> Session:
        journal = Journal(self._store, self._around.clock, admitted, self._identity.owner)
        session = Session(admitted, journal, self._around)
        self._sessions[admitted.request_id] = session
        if self._tasks is None:
            raise Unavailable("This coordinator is shutting down; try another one.")
        task = self._tasks.create_task(session.run(), name=f"session {admitted.session}")
        task.add_done_callback(lambda _: self._sessions.pop(admitted.request_id, None))
        return session

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
            drafters=self._around.drafters.describe(),
            verifiers=self._around.verifiers.describe(),
            store=self._identity.store,
            has_chat_template=tokenizer is not None and tokenizer.has_chat_template,
            metrics=self._identity.metrics,
        )
