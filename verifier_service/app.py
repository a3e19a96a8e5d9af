"""Composition root of the verifier process."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from paceline.config.settings import VerifierSettings
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import VerifierMetrics
from paceline.verifiers import create_backend
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running
from verifier_service.runtime import VerifierRuntime
from verifier_service.service import SERVICE, register


async def run(settings: VerifierSettings) -> None:
    """Load the model, serve until SIGTERM or SIGINT, then let sessions end."""
    telemetry, clock = setup.start("verifier", settings.server), SystemClock()
    backend = await asyncio.to_thread(create_backend, settings, clock)
    metrics = VerifierMetrics(telemetry.registry)
    runtime = VerifierRuntime(backend, settings, clock, tracer=telemetry.tracer, metrics=metrics)

    try:
        async with (
            running(runtime.run(), until_signal()) as stopped,
            serve(settings.server, register(runtime, telemetry.tracer), [SERVICE]) as up,
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
