"""The spans of a verifier step: one per session with children queue, forward and sample."""

from __future__ import annotations

from paceline.core.types import Commit, SessionSpec
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import AttributeValue, Tracer, step_context


def record_step(
    tracer: Tracer,
    spec: SessionSpec,
    commit: Commit,
    times_ns: tuple[int, int],
    drafting_ns: tuple[int, int] | None = None,
) -> None:
    """``times_ns`` is when the step ran; the session's span starts where its waiting began.

    ``drafting_ns`` is when the resident drafter guessed for it, if it did.
    """
    if not spec.trace.trace_id:
        return
    timings, (start, end) = commit.timings, times_ns
    queued = start - int(timings.queue_s * 1e9)
    sampling = end - int(timings.sample_s * 1e9)
    attributes: dict[str, AttributeValue] = {
        Attribute.SESSION: spec.session,
        Attribute.POSITION: commit.start,
        Attribute.TOKENS: len(commit.token_ids),
        Attribute.DRAFTED: commit.drafted,
        Attribute.ACCEPTED: commit.accepted,
    }
    own = step_context(spec.trace, spec.session, commit.start)
    step = tracer.record(Span.STEP, spec.trace, (queued, end), attributes, context=own)
    queue = tracer.record(Span.QUEUE, step, (queued, start))
    if drafting_ns is not None:
        tracer.record(Span.RESIDENT, queue, drafting_ns)
    tracer.record(Span.FORWARD, step, (start, min(start + int(timings.forward_s * 1e9), sampling)))
    tracer.record(Span.SAMPLE, step, (sampling, end))
