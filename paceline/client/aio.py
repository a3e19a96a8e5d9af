"""The asyncio client of a coordinator.

>>> async with Client("127.0.0.1:50051") as client:
...     completion = await client.complete(GenerateRequest("Once upon a time", max_tokens=20))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.core.errors import Cancelled, Internal, PacelineError, Unsupported
from paceline.core.requests import (
    Chunk,
    CoordinatorInfo,
    Finished,
    GenerateEvent,
    GenerateRequest,
    PoolMember,
    Started,
)
from paceline.core.types import Tokens
from paceline.telemetry.spans import SpanRecord
from paceline.v1 import coordinator_pb2 as pb
from paceline.v1 import (
    coordinator_pb2_grpc,
    diagnostics_pb2,
    diagnostics_pb2_grpc,
    drafter_pb2,
    drafter_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from paceline.wire import coordinator_codec as codec
from paceline.wire.channel import connect
from paceline.wire.diagnostics import span_from_pb
from paceline.wire.errors import from_rpc
from paceline.wire.links import GrpcDrafterLink, GrpcVerifierLink

SERVICE = "paceline.v1.CoordinatorService"


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    started: Started
    text: str
    token_ids: Tokens
    finished: Finished


async def collect(events: AsyncGenerator[GenerateEvent]) -> Completion:
    """The events of one request as a whole."""
    started: Started | None = None
    text = ""
    tokens: list[int] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Started):
                started = event
            elif isinstance(event, Chunk):
                text += event.text
                tokens += event.token_ids
            elif started is not None:
                return Completion(started, text, tuple(tokens), event)
    raise Internal("The stream ended without a final event; see the coordinator's log.")


class Client:
    """One connection to one coordinator; errors are ``PacelineError`` with a code."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = connect(address)
        self._stub = coordinator_pb2_grpc.CoordinatorServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the connection; running requests are cancelled."""
        await self._channel.close()

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        """A closed channel cancels its calls, which looks as if the task that waits for them had been cancelled."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Cancelled(f"The connection to {self.address} was closed here; open a new client.") from error

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Started, any number of Chunks, Finished. Leaving the loop cancels the request."""
        call = self._stub.Generate(codec.generate_request_to_pb(request), timeout=request.deadline_s or None)
        try:
            with self._our_errors():
                async for message in call:
                    yield codec.event_from_pb(message)
        finally:
            call.cancel()

    async def complete(self, request: GenerateRequest) -> Completion:
        """The whole answer at once."""
        return await collect(self.generate(request))

    async def cancel(self, request_id: str) -> bool:
        """False when it had already ended."""
        with self._our_errors():
            return bool((await self._stub.Cancel(pb.CancelRequest(request_id=request_id))).cancelled)

    async def describe(self) -> CoordinatorInfo:
        """Pools, store and limits."""
        with self._our_errors():
            return codec.describe_from_pb(await self._stub.Describe(pb.DescribeRequest(), timeout=5))

    async def describe_now(self) -> CoordinatorInfo:
        """As ``describe``, with what the members say now; the coordinator knows what they said when it connected."""
        info = await self.describe()
        return replace(
            info,
            verifiers=tuple([await _asked(one, GrpcVerifierLink(one.address)) for one in info.verifiers]),
            drafters=tuple([await _asked(one, GrpcDrafterLink(one.address)) for one in info.drafters]),
        )

    async def is_serving(self, timeout_s: float = 1.0) -> bool:
        """Whether the coordinator takes requests now."""
        check = health_pb2_grpc.HealthStub(self._channel).Check
        try:
            answer = await check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _asked(member: PoolMember, link: GrpcVerifierLink | GrpcDrafterLink) -> PoolMember:
    """As it was known when it doesn't answer."""
    try:
        return replace(member, info=await link.describe())
    except PacelineError:
        return member
    finally:
        await link.close()


async def read_spans(address: str, *, trace_id: str = "", request_id: str = "") -> list[SpanRecord]:
    """Finished spans of a trace in one process's ring. Raises ``NotFound``, ``Unavailable``."""
    async with connect(address) as channel:
        stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(channel)
        request = diagnostics_pb2.ReadSpansRequest(trace_id=trace_id, request_id=request_id)
        try:
            answer = await stub.ReadSpans(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, address) from error
    return [span_from_pb(span) for span in answer.spans]


async def reload_drafter(address: str, timeout_s: float = 600.0) -> tuple[str, str]:
    """Digests of the weights before and after, of a drafter or of the one inside a verifier.

    Raises ``PacelineError``; then the old weights go on.
    """
    async with connect(address) as channel:
        drafter, verifier = drafter_pb2_grpc.DrafterServiceStub(channel), verifier_pb2_grpc.VerifierServiceStub(channel)
        try:
            return _digests(await drafter.Reload(drafter_pb2.ReloadRequest(), timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise from_rpc(error, address) from error
        try:
            return _digests(await verifier.ReloadResident(verifier_pb2.ReloadResidentRequest(), timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise from_rpc(error, address) from error
            raise Unsupported(
                f"{address} is no drafter and no verifier of this version; give the address of one."
            ) from error


def _digests(answer: drafter_pb2.ReloadResponse | verifier_pb2.ReloadResidentResponse) -> tuple[str, str]:
    return answer.old_model_digest, answer.new_model_digest


async def read_trace(address: str, request_id: str) -> list[SpanRecord]:
    """All spans of a request: the coordinator's, and those of the pool members it names; lost members are skipped."""
    spans = await read_spans(address, request_id=request_id)
    if not spans:
        return spans
    async with Client(address) as client:
        info = await client.describe()
    for member in (*info.verifiers, *info.drafters):
        try:
            spans += await read_spans(member.address, trace_id=spans[0].trace_id)
        except PacelineError:
            continue
    return spans
