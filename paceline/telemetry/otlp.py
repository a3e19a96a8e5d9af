"""Sends finished spans to an OpenTelemetry collector, in batches from a thread; the only door to opentelemetry."""

from __future__ import annotations

from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from paceline.core.errors import InvalidRequest
from paceline.telemetry.spans import SpanRecord

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpExporter:
    """Bounded: when the collector is slow or away, the oldest spans are dropped, never the work."""

    def __init__(self, service: str, endpoint: str) -> None:
        """Connects with the first span. Raises ``InvalidRequest`` for an endpoint that is none."""
        _check(endpoint)
        self._resource = Resource.create({"service.name": f"paceline-{service}"})
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https"), timeout=2)
        self._processor = BatchSpanProcessor(exporter, max_queue_size=8192)

    def put(self, record: SpanRecord) -> None:
        """Queue a finished span."""
        self._processor.on_end(to_otel(record, self._resource))

    def close(self) -> None:
        """Send what is left and stop the thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # untyped upstream


def _check(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        is_address = False
    if not is_address:
        raise InvalidRequest(f"server.otlp_endpoint: {endpoint!r} is not an address such as http://localhost:4317.")


def to_otel(record: SpanRecord, resource: Resource) -> ReadableSpan:
    """Our record as OpenTelemetry's."""
    trace_id = int(record.trace_id, 16)
    parent = _context(trace_id, record.parent_id) if record.parent_id else None
    return ReadableSpan(
        name=record.name,
        context=_context(trace_id, record.span_id),
        parent=parent,
        resource=resource,
        attributes=dict(record.attributes),
        kind=SpanKind.INTERNAL,
        start_time=record.start_ns,
        end_time=record.end_ns,
    )


def _context(trace_id: int, span_id: str) -> SpanContext:
    return SpanContext(trace_id, int(span_id, 16), is_remote=False, trace_flags=_SAMPLED)
