"""``core.ports.Link`` over gRPC: one channel and one long-lived stream per peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc

from paceline.core.types import (
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.v1 import drafter_pb2, drafter_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire import codec, frames
from paceline.wire.channel import connect
from paceline.wire.errors import from_rpc
from paceline.wire.outbox import Outbox


class GrpcVerifierLink:
    """To a verifier."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = connect(address)
        self._stub = verifier_pb2_grpc.VerifierServiceStub(self._channel)
        self._outbox: Outbox[VerifierCommand] = Outbox()

    async def describe(self) -> VerifierInfo:
        """Ask what is served."""
        try:
            return codec.verifier_info_from_pb(
                await self._stub.DescribeVerifier(verifier_pb2.DescribeVerifierRequest())
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    def send(self, command: VerifierCommand) -> None:
        """Queue without waiting."""
        self._outbox.put(command)

    async def events(self) -> AsyncIterator[Sequence[VerifierEvent]]:
        """Batches until the verifier ends the stream; raises ``Unavailable`` when it is lost."""
        try:
            async for message in self._stub.Verify(self._requests()):
                yield frames.verify_response_from_pb(message)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    async def _requests(self) -> AsyncIterator[verifier_pb2.VerifyRequest]:
        async for batch in self._outbox.batches():
            yield frames.verify_request_to_pb(batch)

    async def close(self) -> None:
        """End the stream and the connection."""
        self._outbox.close()
        await self._channel.close()


class GrpcDrafterLink:
    """To a drafter."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = connect(address)
        self._stub = drafter_pb2_grpc.DrafterServiceStub(self._channel)
        self._outbox: Outbox[DrafterCommand] = Outbox(merge_commits=True)

    async def describe(self) -> DrafterInfo:
        """Ask what is served."""
        try:
            return codec.drafter_info_from_pb(await self._stub.DescribeDrafter(drafter_pb2.DescribeDrafterRequest()))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    def send(self, command: DrafterCommand) -> None:
        """Queue without waiting."""
        self._outbox.put(command)

    async def events(self) -> AsyncIterator[Sequence[DrafterEvent]]:
        """Batches until the drafter ends the stream; raises ``Unavailable`` when it is lost."""
        try:
            async for message in self._stub.Draft(self._requests()):
                yield frames.draft_response_from_pb(message)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    async def _requests(self) -> AsyncIterator[drafter_pb2.DraftRequest]:
        async for batch in self._outbox.batches():
            yield frames.draft_request_to_pb(batch)

    async def close(self) -> None:
        """End the stream and the connection."""
        self._outbox.close()
        await self._channel.close()
