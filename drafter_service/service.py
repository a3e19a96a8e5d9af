"""``DrafterService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from drafter_service.runtime import DrafterRuntime
from paceline.drafters.reloading import Reloader
from paceline.telemetry.spans import Tracer
from paceline.v1 import diagnostics_pb2_grpc, drafter_pb2_grpc
from paceline.v1 import drafter_pb2 as pb
from paceline.wire import codec, frames
from paceline.wire.diagnostics import DiagnosticsServicer
from paceline.wire.names import Names

SERVICE = "paceline.v1.DrafterService"


class DrafterServicer(drafter_pb2_grpc.DrafterServiceServicer):
    """The gRPC face of a drafter."""

    def __init__(self, runtime: DrafterRuntime, reloader: Reloader) -> None:
        self._runtime = runtime
        self._reloader = reloader

    async def Draft(
        self, request_iterator: AsyncIterator[pb.DraftRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DraftResponse]:
        """One coordinator's sessions."""
        names = Names()
        commands = (frames.draft_request_from_pb(message, names) async for message in request_iterator)
        async with aclosing(self._runtime.attach(commands)) as batches:
            async for events in batches:
                yield frames.draft_response_to_pb(events, names)

    async def DescribeDrafter(
        self, request: pb.DescribeDrafterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeDrafterResponse:
        """What is served."""
        return codec.drafter_info_to_pb(self._runtime.info)

    async def Reload(self, request: pb.ReloadRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.ReloadResponse:
        """Swap the weights."""
        done = await self._reloader.reload()
        return pb.ReloadResponse(old_model_digest=done.old.model_digest, new_model_digest=done.new.model_digest)


def register(runtime: DrafterRuntime, reloader: Reloader, tracer: Tracer) -> Callable[[grpc.aio.Server], None]:
    """Puts the service and its diagnostics on a server."""

    def on(server: grpc.aio.Server) -> None:
        drafter_pb2_grpc.add_DrafterServiceServicer_to_server(DrafterServicer(runtime, reloader), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(tracer), server)

    return on
