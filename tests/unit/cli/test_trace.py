"""The waterfall: one line per span, children below their parents, one time axis."""

from __future__ import annotations

import pytest

from paceline.cli.trace import WIDTH, waterfall
from paceline.core.errors import NotFound
from paceline.telemetry.spans import SpanRecord

MS = 1_000_000


def span(name: str, own: str, parent: str, start: float, end: float) -> SpanRecord:
    return SpanRecord("t", own, parent, name, "verifier", int(start * MS), int(end * MS))


SPANS = [
    span("forward", "c", "b", 2, 8),
    span("step", "b", "a", 0, 10),
    span("request", "a", "outside", 0, 20),
    span("late step", "d", "a", 10, 20),
]


def test_children_stand_below_their_parents_in_the_order_of_time() -> None:
    names = [line[:24].rstrip() for line in waterfall(SPANS, 60)[1:]]
    assert names == ["request", "  step", "    forward", "  late step"]


def test_bars_begin_and_end_where_the_spans_do() -> None:
    bars = {line[:24].strip(): line[47:] for line in waterfall(SPANS, 60)[1:]}
    assert bars["request"] == "█" * WIDTH
    assert bars["late step"] == " " * (WIDTH // 2) + "█" * (WIDTH // 2)
    assert bars["forward"] == " " * (WIDTH // 10) + "█" * (WIDTH * 3 // 10)


def test_more_spans_than_the_limit_are_counted() -> None:
    lines = waterfall(SPANS, 2)
    assert len(lines) == 4
    assert lines[-1].startswith("… 2 more spans")


def test_a_request_without_spans_is_said_so() -> None:
    with pytest.raises(NotFound, match="no finished spans"):
        waterfall([], 60)
