"""A service with one method of each kind that says back what it hears, and a caller that sends it any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from paceline.core.errors import NotFound
from paceline.v1 import diagnostics_pb2 as pb

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SERVICE = "test.Parrot"


def says(word: str) -> bytes:
    return pb.ReadSpansRequest(trace_id=word).SerializeToString()


@dataclass(slots=True)
class Parrot:
    """Some words make it fail."""

    errors: dict[str, Exception] = field(
        default_factory=lambda: {"refuse": NotFound("No cracker here; bring one."), "crash": RuntimeError("secret")}
    )

    def answer(self, request: pb.ReadSpansRequest) -> pb.ReadSpansResponse:
        if request.trace_id in self.errors:
            raise self.errors[request.trace_id]
        return pb.ReadSpansResponse(spans=[pb.Span(name=request.trace_id)])

    async def unary_unary(self, request: pb.ReadSpansRequest, context: Any) -> pb.ReadSpansResponse:
        return self.answer(request)

    async def unary_stream(self, request: pb.ReadSpansRequest, context: Any) -> AsyncIterator[pb.ReadSpansResponse]:
        yield self.answer(request)

    async def stream_unary(self, requests: AsyncIterator[pb.ReadSpansRequest], context: Any) -> pb.ReadSpansResponse:
        return pb.ReadSpansResponse(spans=[self.answer(request).spans[0] async for request in requests])

    async def stream_stream(
        self, requests: AsyncIterator[pb.ReadSpansRequest], context: Any
    ) -> AsyncIterator[pb.ReadSpansResponse]:
        async for request in requests:
            yield self.answer(request)

    def register(self, server: grpc.aio.Server) -> None:
        methods = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(
                getattr(self, kind),
                request_deserializer=pb.ReadSpansRequest.FromString,
                response_serializer=pb.ReadSpansResponse.SerializeToString,
            )
            for kind in KINDS
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))


@dataclass(frozen=True, slots=True)
class Caller:
    """Every call has a deadline."""

    address: str
    channel: grpc.aio.Channel

    async def call(self, kind: str, *messages: bytes) -> list[str]:
        """Words that came back; raises ``AioRpcError``."""
        method: Any = getattr(self.channel, kind)(
            f"/{SERVICE}/{kind}", response_deserializer=pb.ReadSpansResponse.FromString
        )
        call = method(messages[0] if kind.startswith("unary") else iter(messages), timeout=60)
        answers = [answer async for answer in call] if kind.endswith("stream") else [await call]
        return [span.name for answer in answers for span in answer.spans]

    def stream(self) -> Any:
        """A two-way stream to write to and read from step by step."""
        method: Any = self.channel.stream_stream(
            f"/{SERVICE}/stream_stream", response_deserializer=pb.ReadSpansResponse.FromString
        )
        return method(timeout=60)


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """How a call fails that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(60):
            await call
    return caught.value
