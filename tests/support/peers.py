"""Real runtimes on the hash model, at work behind a link: in memory, or over gRPC to a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from drafter_service.runtime import DrafterRuntime
from drafter_service.service import DrafterServicer
from paceline.config.settings import ServerSettings, SyntheticSettings, VerifierSettings
from paceline.core.types import SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters.reloading import Reloader
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.models.hash_model import HashModel
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.metrics import DrafterMetrics, VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.workers import InlineWorker
from paceline.v1 import drafter_pb2_grpc, verifier_pb2_grpc
from paceline.verifiers.synthetic import SyntheticVerifier
from paceline.wire.links import GrpcDrafterLink, GrpcVerifierLink
from paceline.wire.memory import MemoryLink
from paceline.wire.server import serve
from paceline.wire.tasks import running
from verifier_service.runtime import VerifierRuntime
from verifier_service.service import VerifierServicer

VOCAB = 1000
SYNTHETIC = SyntheticSettings(vocab_size=VOCAB, step_base_s=0.001, agreement=1.0)
SETTINGS = VerifierSettings(backend="synthetic", max_sessions=8, synthetic=SYNTHETIC)
WARM = SamplingParams(temperature=0.8, seed=7)
PATIENCE_S = 120.0
"""A test that waits longer for its peer has failed."""


def spec(session: str, prompt: Tokens = (1, 2, 3), max_tokens: int = 12, **changes: Any) -> SessionSpec:
    """A session whose text is worth checking: warm, so that a wrong seed or position shows."""
    return replace(SessionSpec(session, prompt, len(prompt), WARM, StopRules(max_tokens)), **changes)


def reference(session: SessionSpec, count: int) -> Tokens:
    """The target's own text, token by token."""
    model, context = HashModel(VOCAB), list(session.context)
    for _ in range(count):
        context.append(model.next_token(context, session.sampling, session.prompt_length))
    return tuple(context[len(session.context) :])


@dataclass(slots=True)
class Peer:
    """One side to talk to; it is lost when its server stops."""

    runtime: Any
    link: Any
    lose: Callable[[], Awaitable[None]]
    events: AsyncIterator[Sequence[Any]]

    async def read(self, is_last: Callable[[Any], bool]) -> list[Any]:
        """Events up to one that ``is_last``, whose batch is read whole."""
        seen: list[Any] = []
        while not any(is_last(event) for event in seen):
            seen += await anext(self.events)
        return seen


Register = Callable[[grpc.aio.Server], None]


async def _forever() -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def connected_peer(way: str, runtime: Any, register: Register, connect: Any, service: str) -> AsyncIterator[Peer]:
    """A runtime at work behind a link, in memory or over gRPC."""
    async with (
        asyncio.timeout(PATIENCE_S),
        running(runtime.run(), _forever()),
        AsyncExitStack() as server,
    ):
        if way == "memory":
            link: Any = MemoryLink(runtime, runtime.info, "memory")
        else:
            up = await server.enter_async_context(serve(ServerSettings(grace_s=0.0), register, [service]))
            await up.set_serving(True)
            link = connect(up.address)
        try:
            yield Peer(runtime, link, server.aclose, link.events())
        finally:
            await link.close()


@asynccontextmanager
async def verifying(way: str) -> AsyncIterator[Peer]:
    """A verifier."""
    clock = SystemClock()
    metrics = VerifierMetrics(CollectorRegistry())
    backend = SyntheticVerifier(SETTINGS, clock)
    runtime = VerifierRuntime(backend, SETTINGS, clock, tracer=Tracer("verifier"), metrics=metrics)
    reloader = Reloader(runtime, lambda: SyntheticDrafter(8, SYNTHETIC), metrics.reloads, InlineWorker())

    def register(server: grpc.aio.Server) -> None:
        verifier_pb2_grpc.add_VerifierServiceServicer_to_server(VerifierServicer(runtime, reloader), server)

    async with connected_peer(way, runtime, register, GrpcVerifierLink, "paceline.v1.VerifierService") as peer:
        yield peer


@asynccontextmanager
async def drafting(way: str, agreement: float = 1.0) -> AsyncIterator[Peer]:
    """A drafter that guesses the verifier's tokens with this chance."""
    metrics = DrafterMetrics(CollectorRegistry())
    drafter = SyntheticDrafter(8, replace(SYNTHETIC, agreement=agreement))
    runtime = DrafterRuntime(drafter, SystemClock(), tracer=Tracer("drafter"), metrics=metrics)
    reloader = Reloader(runtime, lambda: drafter, metrics.reloads, InlineWorker())

    def register(server: grpc.aio.Server) -> None:
        drafter_pb2_grpc.add_DrafterServiceServicer_to_server(DrafterServicer(runtime, reloader), server)

    async with connected_peer(way, runtime, register, GrpcDrafterLink, "paceline.v1.DrafterService") as peer:
        yield peer
