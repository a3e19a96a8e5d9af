"""``DrafterService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from drafter_service.runtime import DrafterRuntime
from paceline.v1 import drafter_pb2 as pb
from paceline.v1 import drafter_pb2_grpc
from paceline.wire import codec, frames


class DrafterServicer(drafter_pb2_grpc.DrafterServiceServicer):
    """The gRPC face of a drafter."""

    def __init__(self, runtime: DrafterRuntime) -> None:
        self._runtime = runtime

    async def Draft(
        self, request_iterator: AsyncIterator[pb.DraftRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DraftResponse]:
        """One coordinator's sessions."""
        commands = (frames.draft_request_from_pb(message) async for message in request_iterator)
        async with aclosing(self._runtime.attach(commands)) as batches:
            async for events in batches:
                yield frames.draft_response_to_pb(events)

    async def DescribeDrafter(
        self, request: pb.DescribeDrafterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeDrafterResponse:
        """What is served."""
        return codec.drafter_info_to_pb(self._runtime.info)
