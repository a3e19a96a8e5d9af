"""``core.ports.Link`` over gRPC: one channel and one long-lived stream per peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.core.errors import Unavailable
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
from paceline.wire.names import Names
from paceline.wire.outbox import Outbox

InfoT = TypeVar("InfoT")
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")
AnswerT = TypeVar("AnswerT")

DESCRIBE_S = 4.0
"""For health and Describe together: a party that takes longer counts as down."""
_HEALTHLESS = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)


class _GrpcLink(Generic[InfoT, CommandT, EventT]):
    """What both kinds of link have in common; they differ in their service, its messages and what is merged."""

    def __init__(self, address: str, service: str, describe_s: float, *, merge_commits: bool = False) -> None:
        self.address = address
        self._service = service
        self._describe_s = describe_s
        self._channel = connect(address)
        self._outbox: Outbox[CommandT] = Outbox(merge_commits=merge_commits)
        self._names = Names()
        self._is_closed = False

    def send(self, command: CommandT) -> None:
        """Queue without waiting."""
        self._outbox.put(command)

    async def close(self) -> None:
        """End the stream and the connection."""
        self._is_closed = True
        self._outbox.close()
        await self._channel.close()

    async def _ask(self, describe: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """The answer of a peer that is ready; raises ``Unavailable`` for one that is not, or says nothing."""
        if self._is_closed:
            raise Unavailable(f"The link to {self.address} is closed; make a new one.")
        try:
            async with asyncio.timeout(self._describe_s):
                await self._require_ready()
                return self._whole(await describe())
        except TimeoutError as error:
            raise Unavailable(f"{self.address} does not say what it is within {self._describe_s:g} s.") from error
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error

    async def _require_ready(self) -> None:
        check = health_pb2_grpc.HealthStub(self._channel).Check
        try:
            answer = await check(health_pb2.HealthCheckRequest(service=self._service))
        except grpc.aio.AioRpcError as error:
            if error.code() in _HEALTHLESS:
                return
            raise
        if self._whole(answer).status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable(f"{self.address} is warming up or draining; it takes no sessions now.")

    def _whole(self, answer: AnswerT | None) -> AnswerT:
        """gRPC hands out None for bytes that it can't read, whatever its types say."""
        if answer is None:
            raise Unavailable(f"{self.address} sends what is no protobuf of its type; check its version.")
        return answer

    async def _batches(
        self, open_stream: Callable[[], Any], decode: Callable[[Any], Sequence[EventT]]
    ) -> AsyncIterator[Sequence[EventT]]:
        """Until either side ends the stream; closing the link ends it quietly, losing the peer does not."""
        if self._is_closed:
            return
        call = open_stream()
        try:
            async for message in call:
                yield decode(self._whole(message))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_closed or (task is not None and task.cancelling()):
                raise
        finally:
            call.cancel()


class GrpcVerifierLink(_GrpcLink[VerifierInfo, VerifierCommand, VerifierEvent]):
    """To a verifier."""

    def __init__(self, address: str, describe_s: float = DESCRIBE_S) -> None:
        super().__init__(address, "paceline.v1.VerifierService", describe_s)
        self._stub = verifier_pb2_grpc.VerifierServiceStub(self._channel)

    async def describe(self) -> VerifierInfo:
        """Ask what is served."""
        request = verifier_pb2.DescribeVerifierRequest()
        return codec.verifier_info_from_pb(await self._ask(lambda: self._stub.DescribeVerifier(request)))

    def events(self) -> AsyncIterator[Sequence[VerifierEvent]]:
        """Batches until the verifier ends the stream; raises ``Unavailable`` when it is lost."""
        return self._batches(lambda: self._stub.Verify(self._requests()), self._events)

    def _events(self, message: verifier_pb2.VerifyResponse) -> Sequence[VerifierEvent]:
        return frames.verify_response_from_pb(message, self._names)

    async def _requests(self) -> AsyncIterator[verifier_pb2.VerifyRequest]:
        async for batch in self._outbox.batches():
            yield frames.verify_request_to_pb(batch, self._names)


class GrpcDrafterLink(_GrpcLink[DrafterInfo, DrafterCommand, DrafterEvent]):
    """To a drafter."""

    def __init__(self, address: str, describe_s: float = DESCRIBE_S) -> None:
        super().__init__(address, "paceline.v1.DrafterService", describe_s, merge_commits=True)
        self._stub = drafter_pb2_grpc.DrafterServiceStub(self._channel)

    async def describe(self) -> DrafterInfo:
        """Ask what is served."""
        request = drafter_pb2.DescribeDrafterRequest()
        return codec.drafter_info_from_pb(await self._ask(lambda: self._stub.DescribeDrafter(request)))

    def events(self) -> AsyncIterator[Sequence[DrafterEvent]]:
        """Batches until the drafter ends the stream; raises ``Unavailable`` when it is lost."""
        return self._batches(lambda: self._stub.Draft(self._requests()), self._events)

    def _events(self, message: drafter_pb2.DraftResponse) -> Sequence[DrafterEvent]:
        return frames.draft_response_from_pb(message, self._names)

    async def _requests(self) -> AsyncIterator[drafter_pb2.DraftRequest]:
        async for batch in self._outbox.batches():
            yield frames.draft_request_to_pb(batch, self._names)
