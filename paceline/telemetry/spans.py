"""Finished spans in a bounded ring per process, joined across processes by W3C trace context in the messages.

Our own, because a span per step and child must cost microseconds; ``setup`` exports the ring over OTLP when asked.
Spans of untraced parents are not recorded.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from paceline.core.types import TraceContext
from paceline.telemetry.names import Attribute

AttributeValue = str | int | float | bool
MAX_REQUESTS = 10_000
"""Request ids whose traces can be looked up."""


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A finished span, in OpenTelemetry's terms; times are Unix nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


class OpenSpan:
    """A span under way."""

    def __init__(self, context: TraceContext, attributes: dict[str, AttributeValue]) -> None:
        self.context = context
        self.attributes = attributes

    def set(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Add attributes."""
        self.attributes.update(attributes)


def new_trace() -> TraceContext:
    """A fresh trace without a parent span."""
    return TraceContext(trace_id=secrets.token_hex(16), span_id="")


class Tracer:
    """Records the spans of one process."""

    def __init__(self, service: str, ring: int = 50_000, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.service = service
        self._ring: deque[SpanRecord] = deque(maxlen=ring)
        self._traces: OrderedDict[str, str] = OrderedDict()
        self._now_ns = now_ns
        self._exporters: list[Callable[[SpanRecord], None]] = []

    def export_to(self, exporter: Callable[[SpanRecord], None]) -> None:
        """Call ``exporter`` with every finished span; it must not block."""
        self._exporters.append(exporter)

    @contextmanager
    def span(
        self, name: str, parent: TraceContext, attributes: Mapping[str, AttributeValue] | None = None
    ) -> Iterator[OpenSpan]:
        """A span around a block; children use ``.context`` as their parent."""
        span = OpenSpan(child_of(parent), dict(attributes or {}))
        start = self._now_ns()
        try:
            yield span
        finally:
            self._finish(name, parent, span.context, (start, self._now_ns()), span.attributes)

    def record(
        self,
        name: str,
        parent: TraceContext,
        times_ns: tuple[int, int],
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        context: TraceContext | None = None,
    ) -> TraceContext:
        """A span that is already over; ``context`` gives it an identity that was handed out before."""
        own = context or child_of(parent)
        self._finish(name, parent, own, times_ns, attributes or {})
        return own

    def _finish(
        self,
        name: str,
        parent: TraceContext,
        own: TraceContext,
        times_ns: tuple[int, int],
        attributes: Mapping[str, AttributeValue],
    ) -> None:
        if not own.trace_id:
            return
        record = SpanRecord(own.trace_id, own.span_id, parent.span_id, name, self.service, *times_ns, attributes)
        self._ring.append(record)
        request = attributes.get(Attribute.REQUEST_ID)
        if isinstance(request, str):
            self.name_trace(request, own.trace_id)
        for export in self._exporters:
            export(record)

    def name_trace(self, request_id: str, trace_id: str) -> None:
        """Let ``trace_of`` find the trace of a request, also while it is under way."""
        self._traces[request_id] = trace_id
        if len(self._traces) > MAX_REQUESTS:
            self._traces.popitem(last=False)

    def trace_of(self, request_id: str) -> str | None:
        """Trace id of a recent request."""
        return self._traces.get(request_id)

    def read(self, trace_id: str) -> list[SpanRecord]:
        """Finished spans of a trace that are still in the ring."""
        return [record for record in self._ring if record.trace_id == trace_id]


def child_of(parent: TraceContext) -> TraceContext:
    """A fresh span id in the parent's trace; untraced parents have untraced children."""
    return TraceContext(parent.trace_id, secrets.token_hex(8)) if parent.trace_id else TraceContext()


def step_context(trace: TraceContext, session: str, position: int) -> TraceContext:
    """The span of the step that committed ``position``: verifier and coordinator know its id without telling."""
    if not trace.trace_id:
        return TraceContext()
    span_id = hashlib.blake2b(f"{trace.span_id}:{session}:{position}".encode(), digest_size=8).hexdigest()
    return TraceContext(trace.trace_id, span_id)
