"""Describe answers only for a peer that is ready: health is asked first, and no peer makes us wait for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from paceline.config.settings import ServerSettings
from paceline.core.errors import PacelineError, Unavailable
from paceline.core.types import DrafterInfo, VerifierInfo
from paceline.v1 import drafter_pb2_grpc, verifier_pb2_grpc
from paceline.wire import codec
from paceline.wire.links import GrpcDrafterLink, GrpcVerifierLink
from paceline.wire.server import Running, serve

VERIFIER = VerifierInfo("llama", "m", "t", "n", vocab_size=9, max_context=8, max_sessions=7)
DRAFTER = DrafterInfo("ngram")

AnyLink = GrpcVerifierLink | GrpcDrafterLink
Answer = Callable[[], Any]


class Verifier(verifier_pb2_grpc.VerifierServiceServicer):
    async def DescribeVerifier(self, request: Any, context: Any) -> Any:
        return codec.verifier_info_to_pb(VERIFIER)


class Drafter(drafter_pb2_grpc.DrafterServiceServicer):
    async def DescribeDrafter(self, request: Any, context: Any) -> Any:
        return codec.drafter_info_to_pb(DRAFTER)


def register(server: grpc.aio.Server) -> None:
    verifier_pb2_grpc.add_VerifierServiceServicer_to_server(Verifier(), server)
    drafter_pb2_grpc.add_DrafterServiceServicer_to_server(Drafter(), server)


LINKS: dict[type[AnyLink], tuple[str, VerifierInfo | DrafterInfo]] = {
    GrpcVerifierLink: ("paceline.v1.VerifierService", VERIFIER),
    GrpcDrafterLink: ("paceline.v1.DrafterService", DRAFTER),
}
both = pytest.mark.parametrize("kind", LINKS)


@asynccontextmanager
async def linked(kind: type[AnyLink], address: str, describe_s: float = 10.0) -> AsyncIterator[AnyLink]:
    link = kind(address, describe_s)
    try:
        yield link
    finally:
        await link.close()


@pytest.fixture
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """Health is told under the name of the service that the test's link asks for; it starts as not ready."""
    service = LINKS[request.getfixturevalue("kind")][0]
    async with serve(ServerSettings(grace_s=0.0), register, [service]) as running:
        yield running


@both
async def test_a_peer_that_is_ready_says_what_it_is(kind: type[AnyLink], peer: Running) -> None:
    await peer.set_serving(True)
    async with linked(kind, peer.address) as link:
        assert await link.describe() == LINKS[kind][1]


@both
async def test_a_peer_that_warms_up_or_drains_is_unavailable_with_the_reason(
    kind: type[AnyLink], peer: Running
) -> None:
    async with linked(kind, peer.address) as link:
        with pytest.raises(Unavailable, match="is warming up or draining"):
            await link.describe()
        await peer.set_serving(True)
        await link.describe()
        await peer.set_serving(False)
        with pytest.raises(Unavailable, match=f"{peer.address} is warming up or draining"):
            await link.describe()


@asynccontextmanager
async def bare(
    *handlers: grpc.GenericRpcHandler, more: Callable[[grpc.aio.Server], None] | None = None
) -> AsyncIterator[str]:
    """A server without health service and without our interceptors."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    if more is not None:
        more(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@both
async def test_a_peer_without_a_health_service_is_taken_at_its_word(kind: type[AnyLink]) -> None:
    async with bare(more=register) as address, linked(kind, address) as link:
        assert await link.describe() == LINKS[kind][1]


@both
async def test_a_peer_whose_health_service_does_not_name_the_service_is_taken_at_its_word(kind: type[AnyLink]) -> None:
    async with (
        serve(ServerSettings(grace_s=0.0), register, ["another.Service"]) as running,
        linked(kind, running.address) as link,
    ):
        assert await link.describe() == LINKS[kind][1]


def methods(kind: type[AnyLink], describe: Any, stream: Any) -> grpc.GenericRpcHandler:
    """The service of ``kind`` with handlers that answer in bytes."""
    name = LINKS[kind][0]
    short = name.rpartition(".")[2].removesuffix("Service")
    return grpc.method_handlers_generic_handler(
        name,
        {
            f"Describe{short}": grpc.unary_unary_rpc_method_handler(describe),
            "Verify" if short == "Verifier" else "Draft": grpc.stream_stream_rpc_method_handler(stream),
        },
    )


async def noise(*_: Any) -> bytes:
    return b"\xff"


async def noises(*_: Any) -> AsyncIterator[bytes]:
    yield b"\xff"


@both
async def test_a_peer_that_never_answers_is_unavailable_after_the_deadline(kind: type[AnyLink]) -> None:
    async def never(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with bare(methods(kind, never, noises)) as address, linked(kind, address, describe_s=0.2) as link:
        with pytest.raises(Unavailable, match=f"{address} does not say what it is within 0.2 s"):
            await link.describe()


@both
async def test_a_peer_that_answers_with_noise_is_unavailable(kind: type[AnyLink]) -> None:
    async with bare(methods(kind, noise, noises)) as address, linked(kind, address) as link:
        with pytest.raises(Unavailable, match="no protobuf"):
            await link.describe()
        with pytest.raises(Unavailable, match="no protobuf"):
            await anext(aiter(link.events()))


@both
async def test_nobody_at_the_address_is_unavailable(kind: type[AnyLink], unused_address: str) -> None:
    async with linked(kind, unused_address) as link:
        with pytest.raises(Unavailable, match=f"Can't reach {unused_address}"):
            await link.describe()


@both
async def test_a_peer_of_another_kind_says_that_the_method_is_not_there(kind: type[AnyLink]) -> None:
    async with bare() as address, linked(kind, address) as link:
        with pytest.raises(PacelineError) as caught:
            await link.describe()
    assert caught.value.code == "UNIMPLEMENTED"
