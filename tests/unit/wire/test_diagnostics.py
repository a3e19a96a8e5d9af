"""A process's finished spans are read by the id of a trace or of a request."""

from __future__ import annotations

import grpc
import pytest

from paceline.config.settings import ServerSettings
from paceline.core.errors import NotFound
from paceline.core.types import TraceContext
from paceline.telemetry.names import Attribute
from paceline.telemetry.spans import Tracer
from paceline.v1 import diagnostics_pb2 as pb
from paceline.v1 import diagnostics_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.diagnostics import MAX_SPANS, DiagnosticsServicer, span_from_pb
from paceline.wire.errors import from_rpc
from paceline.wire.server import serve

TRACE, OTHER = TraceContext("1" * 32, "2" * 16), TraceContext("3" * 32, "4" * 16)


async def read(tracer: Tracer, request: pb.ReadSpansRequest) -> pb.ReadSpansResponse:
    """Over a real server with the usual limit of a message."""

    def register(server: grpc.aio.Server) -> None:
        diagnostics_pb2_grpc.add_DiagnosticsServiceServicer_to_server(DiagnosticsServicer(tracer), server)

    async with serve(ServerSettings(grace_s=0.0), register, []) as running, connect(running.address) as channel:
        try:
            return await diagnostics_pb2_grpc.DiagnosticsServiceStub(channel).ReadSpans(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, running.address) from error


async def test_only_the_spans_of_the_trace_are_read() -> None:
    tracer = Tracer("verifier")
    tracer.record("one", TRACE, (5, 6), {Attribute.TOKENS: 3})
    tracer.record("two", OTHER, (7, 8))
    (span,) = (await read(tracer, pb.ReadSpansRequest(trace_id=TRACE.trace_id))).spans
    record = span_from_pb(span)
    assert (record.name, record.service, record.start_ns, record.end_ns) == ("one", "verifier", 5, 6)
    assert (record.trace_id, record.parent_id) == (TRACE.trace_id, TRACE.span_id)
    assert record.attributes == {Attribute.TOKENS: "3"}


async def test_a_request_id_leads_to_its_trace() -> None:
    tracer = Tracer("coordinator")
    tracer.record("request", TRACE, (5, 6), {Attribute.REQUEST_ID: "mine"})
    assert [span.name for span in (await read(tracer, pb.ReadSpansRequest(request_id="mine"))).spans] == ["request"]


async def test_an_unknown_request_is_not_found_with_a_hint() -> None:
    with pytest.raises(NotFound, match=r"'theirs' here; ask the coordinator, soon after it ran"):
        await read(Tracer("coordinator"), pb.ReadSpansRequest(request_id="theirs"))


async def test_a_trace_that_left_nothing_here_has_no_spans() -> None:
    assert list((await read(Tracer("drafter"), pb.ReadSpansRequest(trace_id=TRACE.trace_id))).spans) == []


async def test_of_an_endless_trace_the_newest_spans_fit_one_message() -> None:
    tracer, count = Tracer("verifier"), MAX_SPANS + 5
    attributes = {name: 2**31 for name in vars(Attribute).values() if str(name).startswith("paceline.")}
    for index in range(count):
        tracer.record("verify.step", TRACE, (index, index + 1), attributes)
    spans = (await read(tracer, pb.ReadSpansRequest(trace_id=TRACE.trace_id))).spans
    assert [span.start_unix_ns for span in spans] == list(range(5, count))
