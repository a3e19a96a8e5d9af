"""Finished spans wait in a bounded ring, joined across processes by the trace context that messages carry."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import nouns

from paceline.core.types import TraceContext
from paceline.telemetry.names import Attribute
from paceline.telemetry.spans import MAX_REQUESTS, SpanRecord, Tracer, child_of, new_trace, step_context

TRACE = TraceContext("1" * 32, "2" * 16)
OTHER = TraceContext("3" * 32, "4" * 16)


def test_a_span_lasts_as_long_as_its_block_and_hangs_below_its_parent() -> None:
    tracer = Tracer("coordinator", now_ns=count(100).__next__)
    with tracer.span("request", TRACE, {"a": 1}) as span:
        span.set({"b": 2})
    assert tracer.read(TRACE.trace_id) == [
        SpanRecord(
            TRACE.trace_id, span.context.span_id, TRACE.span_id, "request", "coordinator", 100, 101, {"a": 1, "b": 2}
        )
    ]


def test_children_are_joined_by_context_across_processes() -> None:
    coordinator, verifier = Tracer("coordinator"), Tracer("verifier")
    with coordinator.span("request", new_trace()) as request:
        step = verifier.record("verify.step", request.context, (1, 2))
    (parent,) = coordinator.read(request.context.trace_id)
    (child,) = verifier.read(request.context.trace_id)
    assert (parent.parent_id, child.parent_id) == ("", parent.span_id)
    assert child.span_id == step.span_id != parent.span_id


def test_a_block_that_fails_leaves_its_span_too() -> None:
    tracer = Tracer("coordinator")
    with pytest.raises(ZeroDivisionError), tracer.span("request", TRACE):
        raise ZeroDivisionError
    assert [span.name for span in tracer.read(TRACE.trace_id)] == ["request"]


def test_what_nobody_traces_is_not_recorded_nor_are_its_children() -> None:
    tracer, exported = Tracer("coordinator"), list[SpanRecord]()
    tracer.export_to(exported.append)
    with tracer.span("request", TraceContext()) as span:
        tracer.record("child", span.context, (1, 2))
    assert span.context == TraceContext()
    assert tracer.read("") == exported == []


def test_the_ring_keeps_the_newest_spans() -> None:
    tracer = Tracer("verifier", ring=3)
    for index in range(10):
        tracer.record(str(index), TRACE, (index, index))
    assert [span.name for span in tracer.read(TRACE.trace_id)] == ["7", "8", "9"]


def test_only_the_spans_of_a_trace_are_read() -> None:
    tracer = Tracer("verifier")
    tracer.record("ours", TRACE, (1, 2))
    tracer.record("theirs", OTHER, (1, 2))
    assert [span.name for span in tracer.read(TRACE.trace_id)] == ["ours"]


def test_every_exporter_gets_every_span() -> None:
    tracer = Tracer("verifier")
    first, second = list[SpanRecord](), list[SpanRecord]()
    tracer.export_to(first.append)
    tracer.export_to(second.append)
    tracer.record("one", TRACE, (1, 2))
    assert first == second == tracer.read(TRACE.trace_id)


def test_a_request_leads_to_its_trace_once_its_span_is_over_or_it_was_named() -> None:
    tracer = Tracer("coordinator")
    assert tracer.trace_of("mine") is None
    tracer.name_trace("mine", TRACE.trace_id)
    tracer.record("request", OTHER, (1, 2), {Attribute.REQUEST_ID: "theirs"})
    assert (tracer.trace_of("mine"), tracer.trace_of("theirs")) == (TRACE.trace_id, OTHER.trace_id)


def test_only_so_many_requests_are_remembered_the_newest_ones() -> None:
    tracer = Tracer("coordinator")
    for index in range(MAX_REQUESTS + 2):
        tracer.name_trace(str(index), TRACE.trace_id)
    known = [index for index in range(MAX_REQUESTS + 2) if tracer.trace_of(str(index))]
    assert known == list(range(2, MAX_REQUESTS + 2))


def test_a_span_may_have_an_identity_that_was_handed_out_before() -> None:
    tracer = Tracer("verifier")
    own = step_context(TRACE, "s", 7)
    assert tracer.record("verify.step", TRACE, (1, 2), context=own) == own
    assert tracer.read(TRACE.trace_id)[0].span_id == own.span_id


@given(nouns.hexadecimal(32), nouns.hexadecimal(16), nouns.session, st.integers(0, 2**32))
def test_both_sides_of_a_step_know_its_span_without_telling(trace: str, span: str, session: str, position: int) -> None:
    context = TraceContext(trace, span)
    step = step_context(context, session, position)
    assert step == step_context(TraceContext(trace, span), session, position)
    assert (step.trace_id, len(step.span_id)) == (trace, 16)
    assert int(step.span_id, 16) >= 0
    others = [
        step_context(context, session, position + 1),
        step_context(context, session + "x", position),
        step_context(TraceContext(trace, "f" * 16 if span != "f" * 16 else "e" * 16), session, position),
    ]
    assert step not in others


def test_the_span_of_a_step_is_the_same_in_every_version() -> None:
    assert step_context(TRACE, "s", 7) == TraceContext("1" * 32, "0c8a0f3839724b49")


def test_an_untraced_step_has_no_context() -> None:
    assert step_context(TraceContext(), "s", 7) == child_of(TraceContext()) == TraceContext()


def test_new_ids_are_fresh_and_of_the_right_length() -> None:
    traces, children = {new_trace() for _ in range(50)}, {child_of(TRACE) for _ in range(50)}
    assert len(traces) == len(children) == 50
    assert {(len(one.trace_id), one.span_id) for one in traces} == {(32, "")}
    assert {(one.trace_id, len(one.span_id)) for one in children} == {(TRACE.trace_id, 16)}
