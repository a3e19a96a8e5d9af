"""The whole system in one event loop: the real coordinator, verifiers and drafters over links in memory.

Members can be lost and come back; in a loop with virtual time, such as looptime's, time is exact. The default is the
synthetic back end, whose text anybody can compute: see ``reference``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry

from coordinator.app import verdict_log
from coordinator.pools import Pool
from coordinator.runtime import CoordinatorRuntime, Identity
from coordinator.session import Surroundings
from drafter_service.runtime import DrafterRuntime
from paceline.client.aio import Completion, collect
from paceline.config.links import parse_link
from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings
from paceline.core import ports
from paceline.core.ports import Clock, SessionStore, VerifierBackend
from paceline.core.requests import GenerateEvent, GenerateRequest
from paceline.core.types import VerifierInfo
from paceline.drafters import create_drafter
from paceline.drafters.pacing import paced_worker
from paceline.store.memory import MemoryStore
from paceline.telemetry.metrics import CoordinatorMetrics, DrafterMetrics, VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.parties import Drafter, MakeDrafter, MakeVerifier, Verifier
from paceline.testing.reference import SYNTHETIC
from paceline.testing.workers import InlineWorker
from paceline.text.tokenizer import Tokenizer
from paceline.verifiers import create_backend
from paceline.wire.shaping import shape_drafter_links, shape_verifier_links
from verifier_service.resident import Resident
from verifier_service.runtime import VerifierRuntime

VERIFIER = VerifierSettings(backend="synthetic", synthetic=SYNTHETIC)
DRAFTER = DrafterSettings(drafter="synthetic", synthetic=SYNTHETIC)


def verifier(
    settings: VerifierSettings = VERIFIER,
    make: Callable[[VerifierSettings, Clock], VerifierBackend] = create_backend,
    resident: Callable[[VerifierInfo], ports.Drafter | None] = lambda target: None,
) -> MakeVerifier:
    """A real verifier; ``make`` and ``resident`` are called whenever it starts."""

    def start(clock: Clock) -> VerifierRuntime:
        tracer, metrics = Tracer("verifier", now_ns=clock.time_ns), VerifierMetrics(CollectorRegistry())
        backend = make(settings, clock)
        lodger = resident(backend.info)
        guest = Resident(lodger, clock, metrics, paced_worker(lodger, clock) or InlineWorker())
        return VerifierRuntime(backend, settings, clock, tracer=tracer, metrics=metrics, resident=guest)

    return start


def drafter(
    settings: DrafterSettings = DRAFTER, make: Callable[[DrafterSettings], ports.Drafter] = create_drafter
) -> MakeDrafter:
    """A real drafter, which computes inside the event loop; ``make`` is called whenever it starts.

    The time that it says its calls take goes by on the clock.
    """

    def start(clock: Clock) -> DrafterRuntime:
        tracer, metrics = Tracer("drafter", now_ns=clock.time_ns), DrafterMetrics(CollectorRegistry())
        guesser = make(settings)
        worker = paced_worker(guesser, clock) or InlineWorker()
        return DrafterRuntime(
            guesser, clock, tracer=tracer, metrics=metrics, worker=worker, least_reach=settings.least_reach
        )

    return start


@dataclass(frozen=True, slots=True)
class LocalSystem:
    """A coordinator and its pools."""

    coordinator: CoordinatorRuntime
    verifiers: Sequence[Verifier]
    drafters: Sequence[Drafter]
    store: SessionStore
    metrics: CollectorRegistry
    """Of the coordinator."""
    around: Surroundings

    @property
    def parties(self) -> list[Verifier | Drafter]:
        """All members of both pools."""
        return [*self.verifiers, *self.drafters]

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Started, any number of Chunks, Finished; leaving early cancels."""
        return self.coordinator.generate(request)

    async def complete(self, request: GenerateRequest) -> Completion:
        """The whole answer at once."""
        return await collect(self.generate(request))

    async def wait_healthy(self, num_verifiers: int, num_drafters: int) -> None:
        """Return once exactly so many of each take sessions, as the coordinator sees it."""
        pools = (self.around.verifiers, self.around.drafters)
        changed = asyncio.Event()
        for pool in pools:
            pool.subscribe(changed.set)
        while [len(pool.healthy()) for pool in pools] != [num_verifiers, num_drafters]:
            changed.clear()
            await changed.wait()
        for pool in pools:
            pool.unsubscribe(changed.set)


@asynccontextmanager
async def local_system(
    verifiers: Sequence[MakeVerifier] = (verifier(),),
    drafters: Sequence[MakeDrafter] = (drafter(),),
    *,
    settings: CoordinatorSettings | None = None,
    store: SessionStore | None = None,
    tokenizer: Tokenizer | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[LocalSystem]:
    """Run a system for the length of the block; it begins when all members take sessions.

    Addresses, store and tokenizer in ``settings`` count for nothing here. What a member or the coordinator died of is
    raised in the end.

    >>> async with local_system([verifier()] * 2) as system:
    ...     completion = await system.complete(GenerateRequest((1, 2, 3), max_tokens=20))
    """
    clock, settings, registry = clock or LoopClock(), settings or CoordinatorSettings(), CollectorRegistry()
    verifying = [Verifier(f"verifier-{index}", make, clock) for index, make in enumerate(verifiers)]
    drafting = [Drafter(f"drafter-{index}", make, clock) for index, make in enumerate(drafters)]
    around = _surroundings(verifying, drafting, settings, tokenizer, clock, registry)
    with verdict_log(settings, around.metrics) as verdicts:
        around = replace(around, verdicts=verdicts)
        system = _assemble(verifying, drafting, settings, store or MemoryStore(), around, registry)
        for party in system.parties:
            party.start()
        running = asyncio.create_task(system.coordinator.run(), name="coordinator")
        try:
            await system.wait_healthy(len(verifying), len(drafting))
            yield system
        finally:
            await _end(system, running)


def _surroundings(
    verifiers: Sequence[Verifier],
    drafters: Sequence[Drafter],
    settings: CoordinatorSettings,
    tokenizer: Tokenizer | None,
    clock: Clock,
    registry: CollectorRegistry,
) -> Surroundings:
    by_address = {party.address: party for party in verifiers}
    drafting = {party.address: party for party in drafters}
    pause = settings.health_interval_s
    to_verifier = shape_verifier_links(
        lambda name: by_address[name].connect(), parse_link(settings.verifier_link), clock
    )
    to_drafter = shape_drafter_links(lambda name: drafting[name].connect(), parse_link(settings.drafter_link), clock)
    return Surroundings(
        verifiers=Pool([*by_address], to_verifier, clock, longest_pause_s=pause),
        drafters=Pool([*drafting], to_drafter, clock, longest_pause_s=pause),
        tokenizer=tokenizer,
        clock=clock,
        tracer=Tracer("coordinator", now_ns=clock.time_ns),
        metrics=CoordinatorMetrics(registry),
        window=settings.window,
        commit_credit=settings.commit_credit,
    )


def _assemble(
    verifiers: Sequence[Verifier],
    drafters: Sequence[Drafter],
    settings: CoordinatorSettings,
    store: SessionStore,
    around: Surroundings,
    registry: CollectorRegistry,
) -> LocalSystem:
    runtime = CoordinatorRuntime(settings, around, store, Identity("local", getattr(store, "address", ""), metrics=""))
    return LocalSystem(runtime, verifiers, drafters, store, registry, around)


async def _end(system: LocalSystem, running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait((running,))
    for party in system.parties:
        await party.close()
    failures: list[BaseException | None] = [party.failure for party in system.parties]
    if not running.cancelled():
        failures.append(running.exception())
    for failure in filter(None, failures):
        raise failure
