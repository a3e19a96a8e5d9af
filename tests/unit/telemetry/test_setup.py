"""A process starts its telemetry whole or not at all, and sends its spans to a collector when it is asked to."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from paceline.config.settings import ServerSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import TraceContext
from paceline.telemetry import setup
from paceline.telemetry.names import Attribute, Span

TRACE = TraceContext("1" * 32, "2" * 16)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:], root.level = handlers, level


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    received: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)

    def Export(self, request: Any, context: Any) -> Any:
        self.received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[tuple[str, trace_pb2.Span]]:
        """(service, span) of everything."""
        return [
            (resource.resource.attributes, span)
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector over real gRPC, and its endpoint."""
    one = Collector()
    with futures.ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(one, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield one, f"http://127.0.0.1:{port}"
        server.stop(0).wait()


def test_without_addresses_there_is_a_ring_and_nothing_else() -> None:
    telemetry = setup.start("verifier", ServerSettings(ring_spans=2))
    for index in range(3):
        telemetry.tracer.record(str(index), TRACE, (1, 2))
    assert [span.name for span in telemetry.tracer.read(TRACE.trace_id)] == ["1", "2"]
    assert telemetry.metrics_address == ""
    telemetry.stop()


def test_with_an_address_the_page_is_served_until_the_end() -> None:
    telemetry = setup.start("verifier", ServerSettings(metrics="127.0.0.1:0"))
    url = f"http://{telemetry.metrics_address}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.status == 200
    telemetry.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=60)


def test_spans_reach_the_collector_whole_and_all_of_them_before_the_end(collector: tuple[Collector, str]) -> None:
    one, endpoint = collector
    telemetry = setup.start("verifier", ServerSettings(otlp_endpoint=endpoint))
    root = TraceContext(TRACE.trace_id, "")
    step = telemetry.tracer.record(Span.STEP, root, (1_000, 3_000), {Attribute.TOKENS: 3, Attribute.FINISH: "stop"})
    telemetry.tracer.record(Span.FORWARD, step, (1_500, 2_500))
    for index in range(600):
        telemetry.tracer.record(Span.QUEUE, step, (index, index + 1))
    telemetry.stop()
    spans = [span for _, span in one.spans()]
    assert len(spans) == 602
    parent, child = spans[:2]
    assert (parent.name, parent.trace_id.hex(), parent.parent_span_id) == (Span.STEP, TRACE.trace_id, b"")
    assert (parent.start_time_unix_nano, parent.end_time_unix_nano) == (1_000, 3_000)
    attributes = {pair.key: pair.value for pair in parent.attributes}
    assert attributes[Attribute.TOKENS].int_value == 3
    assert attributes[Attribute.FINISH].string_value == "stop"
    assert (child.name, child.trace_id, child.parent_span_id) == (Span.FORWARD, parent.trace_id, parent.span_id)
    assert parent.span_id.hex() == step.span_id
    assert [span.start_time_unix_nano for span in spans[2:]] == list(range(600))


def test_the_collector_learns_which_service_it_was(collector: tuple[Collector, str]) -> None:
    one, endpoint = collector
    telemetry = setup.start("drafter", ServerSettings(otlp_endpoint=endpoint))
    telemetry.tracer.record(Span.DRAFT, TRACE, (1, 2))
    telemetry.stop()
    ((resource, _),) = one.spans()
    assert {pair.key: pair.value.string_value for pair in resource}["service.name"] == "paceline-drafter"


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:4317", "http://", "http://localhost", "ftp://localhost:4317", "http://localhost:x", "http://[::1"],
)
def test_an_endpoint_that_is_none_is_refused_by_the_setting(endpoint: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^server\.otlp_endpoint: .* is not an address such as http://localhost:4317"
    ):
        setup.start("verifier", ServerSettings(otlp_endpoint=endpoint))


def test_exporting_without_the_library_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "paceline.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'paceline\[otel\]'"):
        setup.start("verifier", ServerSettings(otlp_endpoint="http://localhost:4317"))


def test_a_start_that_fails_in_the_middle_leaves_nothing_running(collector: tuple[Collector, str]) -> None:
    _, endpoint = collector
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServerSettings(metrics=f"127.0.0.1:{taken.getsockname()[1]}", otlp_endpoint=endpoint)
        before = threads()
        with pytest.raises(InvalidRequest, match="metrics"):
            setup.start("verifier", settings)
    assert threads() == before


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "OtelBatch" in thread.name}
