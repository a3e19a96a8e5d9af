"""The services on real sockets in one process, each for the length of a block; it ends as abruptly as a killed one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import grpc
from prometheus_client import CollectorRegistry

import coordinator.service
import drafter_service.service
import verifier_service.service
from coordinator.app import surroundings
from coordinator.runtime import CoordinatorRuntime, Identity
from drafter_service.runtime import DrafterRuntime
from paceline.config.settings import CoordinatorSettings, DrafterSettings, ServerSettings, VerifierSettings
from paceline.core import ports
from paceline.core.ports import Clock, SessionStore, TargetState, VerifierBackend
from paceline.core.types import VerifierInfo
from paceline.drafters import create_drafter
from paceline.drafters.reloading import Reloader
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import CoordinatorMetrics, DrafterMetrics, VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.system import DRAFTER, VERIFIER
from paceline.verifiers import create_backend
from paceline.wire.server import serve
from verifier_service.app import create_resident, required
from verifier_service.resident import Resident
from verifier_service.runtime import VerifierRuntime

RuntimeT = TypeVar("RuntimeT", VerifierRuntime, DrafterRuntime, CoordinatorRuntime)
ANY_PORT = "127.0.0.1:0"
MakeResident = Callable[[VerifierSettings, VerifierInfo, TargetState | None], ports.Drafter | None]


@dataclass(frozen=True, slots=True)
class Host(Generic[RuntimeT]):
    """A service that listens."""

    address: str
    runtime: RuntimeT


@asynccontextmanager
async def _host(
    runtime: RuntimeT, register: Callable[[grpc.aio.Server], None], service: str, listen: str
) -> AsyncIterator[Host[RuntimeT]]:
    running = asyncio.create_task(runtime.run(), name=service)
    try:
        async with serve(ServerSettings(listen=listen, grace_s=0.0), register, [service]) as up:
            await up.set_serving(True)
            yield Host(up.address, runtime)
    finally:
        running.cancel()
        await asyncio.wait((running,))


def serve_verifier(
    settings: VerifierSettings = VERIFIER,
    make: Callable[[VerifierSettings, Clock], VerifierBackend] = create_backend,
    listen: str = ANY_PORT,
    make_resident: MakeResident = create_resident,
) -> AbstractAsyncContextManager[Host[VerifierRuntime]]:
    """A verifier, with the resident drafter that the settings name."""
    clock, tracer, metrics = SystemClock(), Tracer("verifier"), VerifierMetrics(CollectorRegistry())
    backend = make(settings, clock)
    worker = backend.worker or ThreadPoolExecutor(1, thread_name_prefix="resident")
    create = partial(make_resident, settings, backend.info, backend.state)
    resident = Resident(create(), clock, metrics, worker)
    runtime = VerifierRuntime(backend, settings, clock, tracer=tracer, metrics=metrics, resident=resident)
    reloader = Reloader(runtime, partial(required, create), metrics.reloads, worker)
    service = verifier_service.service
    return _host(runtime, service.register(runtime, reloader, tracer), service.SERVICE, listen)


def serve_drafter(
    settings: DrafterSettings = DRAFTER,
    make: Callable[[DrafterSettings], ports.Drafter] = create_drafter,
    listen: str = ANY_PORT,
) -> AbstractAsyncContextManager[Host[DrafterRuntime]]:
    """A drafter, with its own worker thread."""
    tracer, metrics = Tracer("drafter"), DrafterMetrics(CollectorRegistry())
    worker = ThreadPoolExecutor(1, thread_name_prefix="drafter")
    runtime = DrafterRuntime(make(settings), SystemClock(), tracer=tracer, metrics=metrics, worker=worker)
    reloader = Reloader(runtime, partial(make, settings), metrics.reloads, worker)
    service = drafter_service.service
    return _host(runtime, service.register(runtime, reloader, tracer), service.SERVICE, listen)


def serve_coordinator(
    settings: CoordinatorSettings, store: SessionStore, listen: str = ANY_PORT
) -> AbstractAsyncContextManager[Host[CoordinatorRuntime]]:
    """A coordinator of the pools and with the tokenizer that the settings name."""
    tracer = Tracer("coordinator")
    around = surroundings(settings, tracer, CoordinatorMetrics(CollectorRegistry()))
    identity = Identity("local", getattr(store, "address", settings.store), metrics="")
    runtime = CoordinatorRuntime(settings, around, store, identity)
    service = coordinator.service
    return _host(runtime, service.register(runtime, tracer), service.SERVICE, listen)
