"""``VerifierService`` over the runtime: decode, call, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from paceline.v1 import verifier_pb2 as pb
from paceline.v1 import verifier_pb2_grpc
from paceline.wire import codec, frames
from verifier_service.runtime import VerifierRuntime


class VerifierServicer(verifier_pb2_grpc.VerifierServiceServicer):
    """The gRPC face of a verifier."""

    def __init__(self, runtime: VerifierRuntime) -> None:
        self._runtime = runtime

    async def Verify(
        self, request_iterator: AsyncIterator[pb.VerifyRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.VerifyResponse]:
        """One coordinator's sessions."""
        commands = (frames.verify_request_from_pb(message) async for message in request_iterator)
        async with aclosing(self._runtime.attach(commands)) as batches:
            async for events in batches:
                yield frames.verify_response_to_pb(events)

    async def DescribeVerifier(
        self, request: pb.DescribeVerifierRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DescribeVerifierResponse:
        """What is served."""
        return codec.verifier_info_to_pb(self._runtime.info)
