"""Composition root of the verifier process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from paceline.config.settings import DrafterSettings, VerifierSettings
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.ports import Drafter, TargetState
from paceline.core.types import VerifierInfo
from paceline.drafters import create_drafter
from paceline.drafters.pacing import paced_worker
from paceline.drafters.reloading import Reloader
from paceline.drafters.warming import warm_up
from paceline.speculation.fitting import misfit
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.logs import configure
from paceline.telemetry.metrics import VerifierMetrics
from paceline.verifiers import create_backend, follow
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running, together
from verifier_service.resident import Resident
from verifier_service.runtime import VerifierRuntime
from verifier_service.service import SERVICE, register


async def run(settings: VerifierSettings) -> None:
    """Load the model, serve until SIGTERM or SIGINT, then let sessions end. SIGHUP loads the resident drafter anew.

    Any rank but the first serves nobody; it computes what that one says, and a signal ends it at once.
    """
    if settings.rank:
        configure("verifier", settings.server.log_level)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        await asyncio.to_thread(follow, settings)
        return
    telemetry, clock = setup.start("verifier", settings.server), SystemClock()
    backend = await asyncio.to_thread(create_backend, settings, clock)
    metrics = VerifierMetrics(telemetry.registry)
    # In the thread of the steps: a library that computed in another one, if only while loading, keeps threads there.
    worker = backend.worker or ThreadPoolExecutor(1, thread_name_prefix="resident")
    create = partial(create_resident, settings, backend.info, backend.state)
    drafter = await asyncio.get_running_loop().run_in_executor(worker, create)
    resident = Resident(drafter, clock, metrics, paced_worker(drafter, clock) or worker)
    runtime = VerifierRuntime(backend, settings, clock, tracer=telemetry.tracer, metrics=metrics, resident=resident)
    reloader = Reloader(runtime, partial(required, create), metrics.reloads, worker)

    try:
        async with (
            running(together(runtime.run(), reloader.run(), backend.watch()), until_signal()) as stopped,
            serve(settings.server, register(runtime, reloader, telemetry.tracer), [SERVICE]) as up,
        ):
            await up.set_serving(True)
            announce("verifier", up, settings.server, telemetry.metrics_address)
            await stopped.wait()
            await up.set_serving(False)
            runtime.drain("shutting down")
            with suppress(TimeoutError):
                await asyncio.wait_for(runtime.wait_idle(), settings.server.grace_s)
            runtime.cut()
    finally:
        telemetry.stop()


def required(create: Callable[[], Drafter | None]) -> Drafter:
    """Raises ``NotFound`` when the settings name none."""
    drafter = create()
    if drafter is None:
        raise NotFound("resident: the settings name no drafter to load; set resident and start this verifier again.")
    return drafter


def create_resident(
    settings: VerifierSettings, target: VerifierInfo, state: TargetState | None = None
) -> Drafter | None:
    """The drafter that lives here, if any. Raises ``InvalidRequest`` for one that doesn't fit the target."""
    if not settings.resident:
        return None
    drafter = create_drafter(
        DrafterSettings(
            drafter=settings.resident,
            model=settings.resident_model,
            vocab_size=target.vocab_size,
            dtype=settings.dtype,
            threads=settings.threads or len(os.sched_getaffinity(0)),
            max_sessions=target.max_sessions,
            max_context=settings.max_context,
            synthetic=settings.synthetic,
        ),
        state,
    )
    reason = misfit(drafter.info, target)
    if reason:
        raise InvalidRequest(f"resident: {reason}")
    warm_up(drafter)
    return drafter
