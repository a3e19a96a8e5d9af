"""``CoordinatorService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from coordinator.runtime import CoordinatorRuntime
from paceline.telemetry.spans import Tracer
from paceline.v1 import coordinator_pb2 as pb
from paceline.v1 import coordinator_pb2_grpc, diagnostics_pb2_grpc
from paceline.wire import coordinator_codec as codec
from paceline.wire.diagnostics import DiagnosticsServicer

SERVICE = "paceline.v1.CoordinatorService"
HOP_S = 0.005
"""Our last word travels this long: it has to be there before the client's own deadline cuts the call."""


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """The gRPC face of a coordinator."""

    def __init__(self, runtime: CoordinatorRuntime) -> None:
        self._runtime = runtime

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """One continuation."""
        left = context.time_remaining()
        wanted = codec.generate_request_from_pb(request, 0.0 if left is None else max(left - HOP_S, HOP_S))
        async with aclosing(self._runtime.generate(wanted)) as events:
            async for event in events:
                yield codec.event_to_pb(event)

    async def Cancel(self, request: pb.CancelRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.CancelResponse:
        """End a request early."""
        return pb.CancelResponse(cancelled=self._runtime.cancel(request.request_id))

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeResponse:
        """Pools, store and limits."""
        return codec.describe_to_pb(self._runtime.describe())


def register(runtime: CoordinatorRuntime, tracer: Tracer) -> Callable[[grpc.aio.Server], None]:
    """Puts the service and its diagnostics on a server."""

    def on(server: grpc.aio.Server) -> None:
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(CoordinatorServicer(runtime), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(tracer), server)

    return on
