"""The coordinator's spans of a request: the request itself, and the way of each commit from its verifier."""

from __future__ import annotations

from coordinator.requests import Admitted
from paceline.core.ports import Clock
from paceline.core.types import Commit, FinishReason, TraceContext
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import AttributeValue, Tracer, step_context


def record_wire(tracer: Tracer, clock: Clock, admitted: Admitted, commit: Commit) -> TraceContext:
    """The way from the verifier's step to here; returns the step's own context."""
    step = step_context(admitted.trace, commit.session, commit.start)
    timings = commit.timings
    end = timings.started_ns + int((timings.forward_s + timings.sample_s) * 1e9)
    if timings.started_ns:
        tracer.record(Span.WIRE, step, (end, max(end, clock.time_ns())))
    return step


def record_request(
    tracer: Tracer, admitted: Admitted, times_ns: tuple[int, int], num_tokens: int, reason: FinishReason
) -> None:
    """The root of all that the request caused, under the caller's span."""
    attributes: dict[str, AttributeValue] = {
        Attribute.REQUEST_ID: admitted.request_id,
        Attribute.SESSION: admitted.session,
        Attribute.TOKENS: num_tokens,
        Attribute.FINISH: reason.value,
    }
    tracer.record(Span.REQUEST, admitted.parent, times_ns, attributes, context=admitted.trace)
