"""``paceline bench links``: what a round trip to the drafters costs in every mode, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress

from paceline.core.errors import InvalidRequest, PacelineError

if TYPE_CHECKING:
    from paceline.lab.links import Plan, Point

RTTS = "0,0.1,0.3,0.5,0.7,1,1.5,2,3"


def links(
    rtts: str = typer.Option(RTTS, help="Round trips to the drafters, in steps of plain decoding."),
    jitter: float = typer.Option(0.2, min=0.0, max=1.0, help="Share by which every message is early or late."),
    step_ms: float = typer.Option(30.0, min=0.001, help="A step of plain decoding."),
    row_share: float = typer.Option(0.01, min=0.0, help="Of a step: the price of a further row."),
    token_share: float = typer.Option(0.07, min=0.0, help="Of a step: the price of a drafted token."),
    acceptance: float = typer.Option(0.8, min=0.0, max=1.0, help="Chance that a drafted token is right."),
    alternatives: int = typer.Option(3, min=0, help="Other tokens that the drafter names per place."),
    hit: float = typer.Option(0.85, min=0.0, max=1.0, help="Chance that the right token is among these otherwise."),
    least_reach: float = typer.Option(
        0.005, min=0.0001, max=1.0, help="Looking ahead: the drafter's setting of that name; more saves bytes."
    ),
    tokens: int = typer.Option(600, min=30, help="Per point; more make it exact."),
    floor: bool = typer.Option(
        False, "--floor", help="Instead: the worst drafters against plain decoding, and 1 to 64 sessions."
    ),
    grid: bool = typer.Option(False, "--grid", help="Instead: the adaptive length against fixed ones, 48 cells."),
    out: Path = typer.Option(None, help="Write all points here as JSON."),
    plot: Path = typer.Option(None, help="SVG or PNG of the curves; needs the extra lab."),
    json_: bool = typer.Option(False, "--json", help="The points as JSON."),
) -> None:
    """Time per token by the round trip to the drafters: the real services, emulated links, virtual time."""
    from paceline.cli.floor import echo_floor
    from paceline.lab.formulas import Hardware
    from paceline.lab.links import Plan

    try:
        if plot is not None:
            from paceline.cli.plotting import check_plot

            check_plot(plot)
        step_s = step_ms / 1e3
        hardware = Hardware(
            plain_s=step_s,
            row_s=row_share * step_s,
            token_s=token_share * step_s,
            branch_s=token_share * step_s / 30.0,
            acceptance=acceptance,
            hit=hit,
            alternatives=alternatives,
        )
        if floor or grid:
            echo_floor(hardware, tokens, is_grid=grid, as_json=json_, out=out)
            return
        points = _measured(Plan(hardware, _numbers(rtts), jitter, tokens, least_reach=least_reach))
    except PacelineError as error:
        raise typer.BadParameter(str(error)) from error
    _write(points, out, plot)
    lines = [*_table(points), "", *_traffic(points)]
    typer.echo(json.dumps([asdict(point) for point in points]) if json_ else "\n".join(lines))


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidRequest(f"rtts: {text!r} is no list of numbers, such as {RTTS}.") from error
    if not all(0.0 <= one <= 1000.0 for one in found):
        raise InvalidRequest(f"rtts: {text!r} must lie between 0 and 1000 steps.")
    return found


def _measured(plan: Plan) -> list[Point]:
    from paceline.lab.links import curves

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("measuring", total=len(plan.modes) * len(plan.rtts))
        return curves(plan, lambda: progress.advance(bar))


def _write(points: Sequence[Point], out: Path | None, plot: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps([asdict(point) for point in points], indent=1), "utf-8")
    if plot is not None:
        from paceline.cli.plotting import plot_links

        plot_links(points, "Time per token by the round trip to the drafters, virtual time", plot)


def _table(points: Sequence[Point]) -> list[str]:
    """Markdown: a row per round trip, per mode ms per token, in brackets by the formula, and the speed-up."""
    modes = list(dict.fromkeys(point.mode for point in points))
    lines = [f"| RTT / step | {' | '.join(modes)} |", f"|---{'|---' * len(modes)}|"]
    for rtt in dict.fromkeys(point.rtt for point in points):
        cells = [
            f"{1e3 * point.token_s:.1f} ({1e3 * point.paper_s:.1f}) {point.speedup:.2f}×"
            for point in points
            if point.rtt == rtt
        ]
        lines.append(f"| {rtt:g} | {' | '.join(cells)} |")
    return lines


def _traffic(points: Sequence[Point]) -> list[str]:
    """Markdown: bytes of messages per token, a row per mode, at the round trip where it sends most."""
    lines = ["| Bytes per token | drafter → | → verifier | verifier → | → drafter |", "|---|---|---|---|---|"]
    for mode in dict.fromkeys(point.mode for point in points):
        most = max((point.traffic for point in points if point.mode == mode), key=lambda one: one.to_verifier)
        lines.append(f"| {mode} | {' | '.join(f'{value:.0f}' for value in asdict(most).values())} |")
    return lines
