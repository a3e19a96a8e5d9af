"""The coordinator's share of a request's trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.requests import admit
from coordinator.tracing import record_request, record_wire
from paceline.config.settings import CoordinatorSettings
from paceline.core.requests import GenerateRequest
from paceline.core.types import Commit, FinishReason, StepTimings, TraceContext, VerifierInfo
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import Tracer, step_context
from paceline.testing.clock import LoopClock

pytestmark = pytest.mark.looptime
CALLER = TraceContext("ab" * 16, "cd" * 8)
INFO = VerifierInfo("v", "model", "", "numerics", 64, max_context=100, max_sessions=4)
ADMITTED = admit(GenerateRequest((1, 2), trace=CALLER), CoordinatorSettings(), None, INFO, "r1")
TIMINGS = StepTimings(0.0, forward_s=3e-6, sample_s=2e-6, started_ns=10_000)


async def test_the_way_of_a_commit_begins_where_its_step_ended() -> None:
    tracer = Tracer("coordinator")
    commit = Commit(ADMITTED.session, 5, (7,), timings=TIMINGS)
    step = record_wire(tracer, LoopClock(started_ns=40_000), ADMITTED, commit)
    assert step == step_context(ADMITTED.trace, ADMITTED.session, 5)
    (wire,) = tracer.read(CALLER.trace_id)
    assert (wire.name, wire.parent_id, wire.start_ns, wire.end_ns) == (Span.WIRE, step.span_id, 15_000, 40_000)


async def test_a_way_is_never_negative_however_the_clocks_differ() -> None:
    tracer = Tracer("coordinator")
    record_wire(tracer, LoopClock(started_ns=1), ADMITTED, Commit(ADMITTED.session, 5, (7,), timings=TIMINGS))
    (wire,) = tracer.read(CALLER.trace_id)
    assert (wire.start_ns, wire.end_ns) == (15_000, 15_000)


async def test_a_step_without_a_time_has_no_way() -> None:
    tracer = Tracer("coordinator")
    commit = Commit(ADMITTED.session, 5, (7,), timings=replace(TIMINGS, started_ns=0))
    assert record_wire(tracer, LoopClock(), ADMITTED, commit).trace_id == CALLER.trace_id
    assert tracer.read(CALLER.trace_id) == []


async def test_a_request_is_the_callers_child_and_can_be_found_by_its_id() -> None:
    tracer = Tracer("coordinator")
    record_request(tracer, ADMITTED, (1_000, 9_000), 7, FinishReason.STOP)
    (root,) = tracer.read(CALLER.trace_id)
    assert (root.name, root.parent_id, root.span_id) == (Span.REQUEST, CALLER.span_id, ADMITTED.trace.span_id)
    assert (root.start_ns, root.end_ns) == (1_000, 9_000)
    assert root.attributes[Attribute.TOKENS] == 7
    assert root.attributes[Attribute.FINISH] == "stop"
    assert tracer.trace_of("r1") == CALLER.trace_id
