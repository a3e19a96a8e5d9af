"""Composition root of the coordinator process."""

from __future__ import annotations

import secrets

from coordinator.pools import Pool, check_tokenizer
from coordinator.runtime import CoordinatorRuntime, Identity
from coordinator.service import SERVICE, register
from coordinator.session import Surroundings
from paceline.config.settings import CoordinatorSettings
from paceline.core.ports import SessionStore
from paceline.discovery.static import check_addresses
from paceline.store import open_store
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import CoordinatorMetrics
from paceline.telemetry.spans import Tracer
from paceline.text.resolve import model_directory
from paceline.text.tokenizer import Tokenizer
from paceline.wire.links import GrpcDrafterLink, GrpcVerifierLink
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.tasks import running


async def run(settings: CoordinatorSettings) -> None:
    """Serve until SIGTERM or SIGINT, then let requests end."""
    telemetry = setup.start("coordinator", settings.server)
    store = await open_store(settings.store)
    try:
        await _serve(settings, telemetry, store)
    finally:
        await store.close()
        telemetry.stop()


async def _serve(settings: CoordinatorSettings, telemetry: setup.Telemetry, store: SessionStore) -> None:
    around = surroundings(settings, telemetry.tracer, CoordinatorMetrics(telemetry.registry))
    owner = f"coordinator-{secrets.token_hex(4)}"
    identity = Identity(owner, getattr(store, "address", settings.store), telemetry.metrics_address)
    runtime = CoordinatorRuntime(settings, around, store, identity)

    async with (
        running(runtime.run(), until_signal()) as stopped,
        serve(settings.server, register(runtime, telemetry.tracer), [SERVICE]) as up,
    ):
        await runtime.wait_ready(unless=stopped)
        if stopped.is_set():
            return
        await up.set_serving(True)
        announce("coordinator", up, settings.server, telemetry.metrics_address)
        await stopped.wait()
        await up.set_serving(False)
        await runtime.drain(settings.server.grace_s)


def surroundings(settings: CoordinatorSettings, tracer: Tracer, metrics: CoordinatorMetrics) -> Surroundings:
    """What the settings name: pools over gRPC, and the tokenizer. Raises for what is not there or no address."""
    clock = SystemClock()
    tokenizer = Tokenizer.load(model_directory(settings.tokenizer)) if settings.tokenizer else None
    ours = tokenizer.digest if tokenizer else ""
    pause = settings.health_interval_s
    return Surroundings(
        verifiers=Pool(
            check_addresses("verifiers", settings.verifiers),
            GrpcVerifierLink,
            clock,
            longest_pause_s=pause,
            check=lambda info: check_tokenizer(ours, info),
        ),
        drafters=Pool(check_addresses("drafters", settings.drafters), GrpcDrafterLink, clock, longest_pause_s=pause),
        tokenizer=tokenizer,
        clock=clock,
        tracer=tracer,
        metrics=metrics,
        window=settings.window,
        commit_credit=settings.commit_credit,
    )
