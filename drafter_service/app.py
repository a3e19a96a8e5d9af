"""Composition root of the drafter process."""

from __future__ import annotations

import asyncio

import grpc

from drafter_service.runtime import DrafterRuntime
from drafter_service.service import DrafterServicer
from paceline.config.settings import DrafterSettings
from paceline.drafters import create_drafter
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import DrafterMetrics
from paceline.v1 import diagnostics_pb2_grpc, drafter_pb2_grpc
from paceline.wire.diagnostics import DiagnosticsServicer
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running

SERVICE = "paceline.v1.DrafterService"


async def run(settings: DrafterSettings) -> None:
    """Load the drafter, serve until SIGTERM or SIGINT, sessions go on without it."""
    telemetry, clock = setup.start("drafter", settings.server), SystemClock()
    drafter = await asyncio.to_thread(create_drafter, settings)
    metrics = DrafterMetrics(telemetry.registry)
    runtime = DrafterRuntime(drafter, clock, tracer=telemetry.tracer, metrics=metrics)

    def register(server: grpc.aio.Server) -> None:
        drafter_pb2_grpc.add_DrafterServiceServicer_to_server(DrafterServicer(runtime), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(telemetry.tracer), server)

    try:
        async with running(runtime.run(), until_signal()) as stopped, serve(settings.server, register, [SERVICE]) as up:
            await up.set_serving(True)
            announce("drafter", up, settings.server, telemetry.metrics_address)
            await stopped.wait()
            await up.set_serving(False)
            runtime.drain("shutting down")
    finally:
        telemetry.stop()
