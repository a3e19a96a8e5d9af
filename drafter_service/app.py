"""Composition root of the drafter process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from drafter_service.runtime import DrafterRuntime
from drafter_service.service import SERVICE, register
from paceline.config.settings import DrafterSettings
from paceline.core.ports import Drafter
from paceline.drafters import create_drafter
from paceline.drafters.pacing import paced_worker
from paceline.drafters.reloading import Reloader
from paceline.drafters.warming import warm_up
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import DrafterMetrics
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running, together


async def run(settings: DrafterSettings) -> None:
    """Load the drafter, serve until SIGTERM or SIGINT; sessions go on without it. SIGHUP loads the weights anew."""
    telemetry, clock = setup.start("drafter", settings.server), SystemClock()
    create = partial(_create, settings)
    # One thread loads, warms up and computes: a library that computed in another one keeps threads there.
    worker = ThreadPoolExecutor(1, thread_name_prefix="drafter")
    drafter = await asyncio.get_running_loop().run_in_executor(worker, create)
    metrics = DrafterMetrics(telemetry.registry)
    paced = paced_worker(drafter, clock) or worker
    runtime = DrafterRuntime(
        drafter,
        clock,
        tracer=telemetry.tracer,
        metrics=metrics,
        worker=paced,
        least_reach=settings.least_reach,
    )
    reloader = Reloader(runtime, create, metrics.reloads, worker)

    try:
        async with (
            running(together(runtime.run(), reloader.run()), until_signal()) as stopped,
            serve(settings.server, register(runtime, reloader, telemetry.tracer), [SERVICE]) as up,
        ):
            await up.set_serving(True)
            announce("drafter", up, settings.server, telemetry.metrics_address)
            await stopped.wait()
            await up.set_serving(False)
            runtime.drain("shutting down")
            runtime.cut()
    finally:
        telemetry.stop()


def _create(settings: DrafterSettings) -> Drafter:
    drafter = create_drafter(settings)
    warm_up(drafter)
    return drafter
