"""Composition root of the verifier process."""

from __future__ import annotations

import asyncio

import grpc

from paceline.config.settings import VerifierSettings
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import VerifierMetrics
from paceline.v1 import diagnostics_pb2_grpc, verifier_pb2_grpc
from paceline.verifiers import create_backend
from paceline.wire.diagnostics import DiagnosticsServicer
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running
from verifier_service.runtime import VerifierRuntime
from verifier_service.service import VerifierServicer

SERVICE = "paceline.v1.VerifierService"


async def run(settings: VerifierSettings) -> None:
    """Load the model, serve until SIGTERM or SIGINT, then let sessions end."""
    telemetry, clock = setup.start("verifier", settings.server), SystemClock()
    backend = await asyncio.to_thread(create_backend, settings, clock)
    metrics = VerifierMetrics(telemetry.registry)
    runtime = VerifierRuntime(backend, settings, clock, tracer=telemetry.tracer, metrics=metrics)

    def register(server: grpc.aio.Server) -> None:
        verifier_pb2_grpc.add_VerifierServiceServicer_to_server(VerifierServicer(runtime), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(telemetry.tracer), server)

    try:
        async with running(runtime.run(), until_signal()) as stopped, serve(settings.server, register, [SERVICE]) as up:
            await up.set_serving(True)
            announce("verifier", up, settings.server, telemetry.metrics_address)
            await stopped.wait()
            await up.set_serving(False)
            runtime.drain("shutting down")
            await asyncio.wait((asyncio.ensure_future(runtime.wait_idle()),), timeout=settings.server.grace_s)
    finally:
        telemetry.stop()
