"""One request, one trace: spans of three services that fit together."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from paceline.client.aio import Client, read_spans, read_trace
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import NotFound
from paceline.core.requests import GenerateRequest
from paceline.core.types import TraceContext
from paceline.telemetry.names import Attribute, Span
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore

Stack = Any  # tests/integration/services/conftest.py
REQUEST = GenerateRequest((1, 2, 3), request_id="traced", max_tokens=40)


async def test_the_spans_of_all_services_share_one_trace_and_their_parents_resolve(stack: Stack) -> None:
    completion = await stack.client.complete(REQUEST)
    await stack.until_empty()
    spans = await read_trace(stack.coordinator.address, "traced")
    assert {span.service for span in spans} == {"coordinator", "verifier", "drafter"}
    assert {span.trace_id for span in spans} == {completion.started.trace_id}
    assert len({span.span_id for span in spans}) == len(spans)
    by_id = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent_id not in by_id]
    assert (root.name, root.parent_id) == (Span.REQUEST, "")


async def test_every_step_has_its_queue_forward_sample_wire_and_store(stack: Stack) -> None:
    completion = await stack.client.complete(REQUEST)
    spans = await read_trace(stack.coordinator.address, "traced")
    steps = [span for span in spans if span.name == Span.STEP]
    assert len(steps) == completion.finished.speculative.num_steps
    assert sum(int(span.attributes[Attribute.TOKENS]) for span in steps) == 40
    for step in steps:
        children = [span.name for span in spans if span.parent_id == step.span_id]
        assert {Span.QUEUE, Span.FORWARD, Span.SAMPLE, Span.WIRE} <= set(children)
    stores = [span for span in spans if span.name == Span.STORE]
    assert sum(int(span.attributes[Attribute.TOKENS]) for span in stores) == 40
    assert {span.parent_id for span in stores} <= {step.span_id for step in steps}


async def test_spans_lie_within_their_request(stack: Stack) -> None:
    await stack.client.complete(REQUEST)
    spans = await read_trace(stack.coordinator.address, "traced")
    (root,) = [span for span in spans if span.name == Span.REQUEST]
    assert root.attributes[Attribute.FINISH] == "length"
    for span in spans:
        assert span.start_ns <= span.end_ns
        assert root.start_ns - 5_000_000 <= span.start_ns
    assert {span.parent_id for span in spans if span.name in (Span.TOKENIZE, Span.CREATE, Span.DRAFT)} == {root.span_id}


async def test_a_request_joins_its_callers_trace(stack: Stack) -> None:
    caller = TraceContext("ab" * 16, "cd" * 8)
    completion = await stack.client.complete(GenerateRequest((1, 2, 3), max_tokens=5, trace=caller))
    assert completion.started.trace_id == caller.trace_id
    spans = await read_spans(stack.coordinator.address, trace_id=caller.trace_id)
    (root,) = [span for span in spans if span.name == Span.REQUEST]
    assert root.parent_id == caller.span_id


async def test_a_trace_can_be_read_when_a_member_is_lost(settings: CoordinatorSettings) -> None:
    async with serve_verifier() as verifier, AsyncExitStack() as ends:
        drafter = await ends.enter_async_context(serve_drafter())
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await coordinator.runtime.wait_ready()
            await client.complete(REQUEST)
            await ends.aclose()
            spans = await read_trace(coordinator.address, "traced")
            assert {span.service for span in spans} == {"coordinator", "verifier"}


async def test_an_unknown_request_has_no_trace(stack: Stack) -> None:
    with pytest.raises(NotFound, match="No trace of request 'nobody' here"):
        await read_trace(stack.coordinator.address, "nobody")
