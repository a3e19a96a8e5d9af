"""Composition root of the coordinator process."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from coordinator.pools import Pool, check_tokenizer
from coordinator.runtime import CoordinatorRuntime, Identity
from coordinator.service import SERVICE, register
from coordinator.session import Surroundings
from paceline.config.links import parse_link
from paceline.config.settings import CoordinatorSettings
from paceline.core.ports import SessionStore
from paceline.discovery.static import check_addresses
from paceline.store import open_store
from paceline.telemetry import setup
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import CoordinatorMetrics
from paceline.telemetry.spans import Tracer
from paceline.telemetry.verdicts import NoVerdicts, Room, VerdictLog, VerdictSink
from paceline.text.resolve import model_directory
from paceline.text.tokenizer import Tokenizer
from paceline.wire.links import GrpcDrafterLink, GrpcVerifierLink
from paceline.wire.server import announce, serve, until_signal
from paceline.wire.shaping import shape_drafter_links, shape_verifier_links
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
    metrics = CoordinatorMetrics(telemetry.registry)
    with verdict_log(settings, metrics) as verdicts:
        around = replace(surroundings(settings, telemetry.tracer, metrics), verdicts=verdicts)
        await _serve_with(settings, telemetry, store, around)


@contextmanager
def verdict_log(settings: CoordinatorSettings, metrics: CoordinatorMetrics) -> Iterator[VerdictSink]:
    """What the settings name. Raises ``InvalidRequest`` for a directory that can't be written into."""
    if not settings.verdict_log:
        yield NoVerdicts()
        return
    room = Room(settings.verdict_log_bytes, settings.verdict_log_files)
    log = VerdictLog(Path(settings.verdict_log), room, metrics.verdicts)
    try:
        yield log
    finally:
        log.close()


async def _serve_with(
    settings: CoordinatorSettings, telemetry: setup.Telemetry, store: SessionStore, around: Surroundings
) -> None:
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
            shape_verifier_links(GrpcVerifierLink, parse_link(settings.verifier_link), clock),
            clock,
            longest_pause_s=pause,
            check=lambda info: check_tokenizer(ours, info),
        ),
        drafters=Pool(
            check_addresses("drafters", settings.drafters),
            shape_drafter_links(GrpcDrafterLink, parse_link(settings.drafter_link), clock),
            clock,
            longest_pause_s=pause,
        ),
        tokenizer=tokenizer,
        clock=clock,
        tracer=tracer,
        metrics=metrics,
        window=settings.window,
        commit_credit=settings.commit_credit,
    )
