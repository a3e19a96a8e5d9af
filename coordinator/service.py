"""``CoordinatorService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from coordinator.runtime import CoordinatorRuntime
from paceline.v1 import coordinator_pb2 as pb
from paceline.v1 import coordinator_pb2_grpc
from paceline.wire import coordinator_codec as codec


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """The gRPC face of a coordinator."""

    def __init__(self, runtime: CoordinatorRuntime) -> None:
        self._runtime = runtime

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.GenerateResponse]:
        """One continuation."""
        wanted = codec.generate_request_from_pb(request, context.time_remaining() or 0.0)
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
