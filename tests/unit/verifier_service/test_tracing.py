"""The spans of a step: when it queued, ran and sampled, under an id that the coordinator knows without being told."""

from __future__ import annotations

from paceline.core.types import Commit, SamplingParams, SessionSpec, StepTimings, StopRules, TraceContext
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import Tracer, step_context
from verifier_service.tracing import record_step

TRACE = TraceContext("ab" * 16, "cd" * 8)
SPEC = SessionSpec("s", (1, 2, 3), 3, SamplingParams(), StopRules(20), trace=TRACE)
COMMIT = Commit("s", 5, (7, 8, 9), 4, 2, timings=StepTimings(queue_s=1e-6, forward_s=3e-6, sample_s=2e-6))


def test_a_step_has_the_children_queue_forward_and_sample() -> None:
    tracer = Tracer("verifier")
    record_step(tracer, SPEC, COMMIT, (10_000, 15_000))
    step, queue, forward, sample = tracer.read(TRACE.trace_id)
    assert (step.name, step.parent_id) == (Span.STEP, TRACE.span_id)
    assert step.span_id == step_context(TRACE, "s", 5).span_id
    assert {span.parent_id for span in (queue, forward, sample)} == {step.span_id}
    assert [(span.name, span.start_ns, span.end_ns) for span in (step, queue, forward, sample)] == [
        (Span.STEP, 9_000, 15_000),
        (Span.QUEUE, 9_000, 10_000),
        (Span.FORWARD, 10_000, 13_000),
        (Span.SAMPLE, 13_000, 15_000),
    ]


def test_a_step_says_what_it_did() -> None:
    tracer = Tracer("verifier")
    record_step(tracer, SPEC, COMMIT, (10_000, 15_000))
    assert tracer.read(TRACE.trace_id)[0].attributes == {
        Attribute.SESSION: "s",
        Attribute.POSITION: 5,
        Attribute.TOKENS: 3,
        Attribute.DRAFTED: 4,
        Attribute.ACCEPTED: 2,
    }


def test_an_untraced_session_leaves_no_spans() -> None:
    tracer = Tracer("verifier")
    record_step(tracer, SessionSpec("s", (1,), 1, SamplingParams(), StopRules(2)), COMMIT, (10_000, 15_000))
    assert tracer.read("") == []
