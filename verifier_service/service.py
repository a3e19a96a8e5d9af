"""``VerifierService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc

from paceline.drafters.reloading import Reloader
from paceline.telemetry.spans import Tracer
from paceline.v1 import diagnostics_pb2_grpc, verifier_pb2_grpc
from paceline.v1 import verifier_pb2 as pb
from paceline.wire import codec, frames
from paceline.wire.diagnostics import DiagnosticsServicer
from paceline.wire.names import Names
from verifier_service.runtime import VerifierRuntime

SERVICE = "paceline.v1.VerifierService"


class VerifierServicer(verifier_pb2_grpc.VerifierServiceServicer):
    """The gRPC face of a verifier."""

    def __init__(self, runtime: VerifierRuntime, reloader: Reloader) -> None:
        self._runtime = runtime
        self._reloader = reloader

    async def Verify(
        self, request_iterator: AsyncIterator[pb.VerifyRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.VerifyResponse]:
        """One coordinator's sessions."""
        names = Names()
        commands = (frames.verify_request_from_pb(message, names) async for message in request_iterator)
        async with aclosing(self._runtime.attach(commands)) as batches:
            async for events in batches:
                yield frames.verify_response_to_pb(events, names)

    async def DescribeVerifier(
        self, request: pb.DescribeVerifierRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeVerifierResponse:
        """What is served."""
        return codec.verifier_info_to_pb(self._runtime.info)

    async def ReloadResident(
        self, request: pb.ReloadResidentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReloadResidentResponse:
        """Swap the weights of the drafter that lives here."""
        done = await self._reloader.reload()
        return pb.ReloadResidentResponse(old_model_digest=done.old.model_digest, new_model_digest=done.new.model_digest)


def register(runtime: VerifierRuntime, reloader: Reloader, tracer: Tracer) -> Callable[[grpc.aio.Server], None]:
    """Puts the service and its diagnostics on a server."""

    def on(server: grpc.aio.Server) -> None:
        verifier_pb2_grpc.add_VerifierServiceServicer_to_server(VerifierServicer(runtime, reloader), server)
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(tracer), server)

    return on
