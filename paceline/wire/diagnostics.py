"""Lets ``paceline trace`` read a process's ring of finished spans."""

from __future__ import annotations

from typing import Any

import grpc

from paceline.core.errors import NotFound
from paceline.telemetry.spans import SpanRecord, Tracer
from paceline.v1 import diagnostics_pb2 as pb
from paceline.v1 import diagnostics_pb2_grpc

MAX_SPANS = 10_000
"""Newest spans of a trace in one answer, so that it stays below 4 MiB."""


class DiagnosticsServicer(diagnostics_pb2_grpc.DiagnosticsServiceServicer):
    """Served by every process."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    async def ReadSpans(
        self, request: pb.ReadSpansRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReadSpansResponse:
        """Spans of a trace, by its id or by a request's."""
        trace_id = request.trace_id or self._tracer.trace_of(request.request_id)
        if not trace_id:
            raise NotFound(f"No trace of request {request.request_id!r} here; ask the coordinator, soon after it ran.")
        records = self._tracer.read(trace_id)[-MAX_SPANS:]
        return pb.ReadSpansResponse(spans=[span_to_pb(record) for record in records])


def span_to_pb(record: SpanRecord) -> pb.Span:
    """A finished span."""
    return pb.Span(
        trace_id=record.trace_id,
        span_id=record.span_id,
        parent_id=record.parent_id,
        name=record.name,
        service=record.service,
        start_unix_ns=record.start_ns,
        end_unix_ns=record.end_ns,
        attributes={name: str(value) for name, value in record.attributes.items()},
    )


def span_from_pb(message: pb.Span) -> SpanRecord:
    """The inverse; attributes come back as text."""
    return SpanRecord(
        trace_id=message.trace_id,
        span_id=message.span_id,
        parent_id=message.parent_id,
        name=message.name,
        service=message.service,
        start_ns=message.start_unix_ns,
        end_ns=message.end_unix_ns,
        attributes=dict(message.attributes),
    )
