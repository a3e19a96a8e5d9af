"""``paceline trace``: where the milliseconds of a request went, as a waterfall in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import typer

from paceline.cli.running import connected, run
from paceline.client.aio import read_trace
from paceline.core.errors import NotFound
from paceline.telemetry.spans import SpanRecord

WIDTH = 60


def trace(
    request: str = typer.Argument(..., help="Request id, as generate prints it."),
    target: str = typer.Option("", help="host:port of the coordinator that served it."),
    limit: int = typer.Option(60, min=1, help="Lines at most; the rest is summed up."),
    json_: bool = typer.Option(False, "--json", help="The spans as JSON."),
) -> None:
    """Draw the spans of all services for one request; they stay in memory for a while after it."""

    async def work() -> list[SpanRecord]:
        async with connected(target) as client:
            return await read_trace(client.address, request)

    spans = run(work(), as_json=json_)
    if json_:
        typer.echo(json.dumps([asdict(span) for span in spans]))
    else:
        typer.echo("\n".join(waterfall(spans, limit)))
        typer.echo("\n".join(_summary(spans)))


def waterfall(spans: Sequence[SpanRecord], limit: int) -> list[str]:
    """One line per span, children below their parents, bars on one time axis."""
    if not spans:
        raise NotFound("The request is known, but it has no finished spans yet; ask again in a moment.")
    start = min(span.start_ns for span in spans)
    end = max(span.end_ns for span in spans)
    scale = WIDTH / max(end - start, 1)
    rows = list(_rows(spans))
    lines = [f"{'':<36}{'ms':>9}  0{'':{WIDTH - 9}}{(end - start) / 1e6:8.1f}"]
    for depth, span in rows[:limit]:
        left = int((span.start_ns - start) * scale)
        width = max(1, round((span.end_ns - span.start_ns) * scale))
        name = "  " * depth + span.name
        bar = " " * left + "█" * min(width, WIDTH - left)
        lines.append(f"{name:<24}{span.service:<12.12}{(span.end_ns - span.start_ns) / 1e6:9.2f}  {bar}")
    if len(rows) > limit:
        lines.append(f"… {len(rows) - limit} more spans; raise --limit to see them")
    return lines


def _rows(spans: Sequence[SpanRecord]) -> Iterator[tuple[int, SpanRecord]]:
    ids = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda one: one.start_ns):
        children.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)
    waiting = [(0, span) for span in reversed(children.get("", []))]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]


def _summary(spans: Sequence[SpanRecord]) -> list[str]:
    """Total time and count by name."""
    totals: dict[str, tuple[int, int]] = {}
    for span in spans:
        count, time = totals.get(span.name, (0, 0))
        totals[span.name] = (count + 1, time + span.end_ns - span.start_ns)
    lines = ["", f"{'span':<18}{'count':>7}{'total ms':>11}{'mean ms':>10}"]
    for name, (count, time) in sorted(totals.items(), key=lambda item: -item[1][1]):
        lines.append(f"{name:<18}{count:>7}{time / 1e6:>11.2f}{time / 1e6 / count:>10.3f}")
    return lines
