"""``paceline bench links --floor`` and ``--grid``: whether drafts ever cost, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from paceline.lab.floor import Cell, Crowd, Floor
    from paceline.lab.formulas import Hardware

SESSIONS = (1, 4, 16, 64)


def echo_floor(hardware: Hardware, tokens: int, *, is_grid: bool, as_json: bool, out: Path | None) -> None:
    """Measure and print, as Markdown or JSON; into ``out`` as JSON too. ``tokens`` are those of each session."""
    from paceline.lab import floor

    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = len(floor.PLACES) if is_grid else len(floor.POOLED) * (len(floor.Trouble) + len(SESSIONS))
        bar = progress.add_task("measuring", total=total)

        def tick() -> None:
            progress.advance(bar)

        if is_grid:
            rows: Sequence[Cell | Floor | Crowd] = floor.grid(hardware, floor.PLACES, tokens, tick)
        else:
            rows = _floor(hardware, tokens, tick)
    text = json.dumps([asdict(row) for row in rows], indent=1)
    if out is not None:
        out.write_text(text, "utf-8")
    typer.echo(text if as_json else "\n".join(_lines(rows)))


def _floor(hardware: Hardware, tokens: int, tick: Callable[[], None]) -> list[Cell | Floor | Crowd]:
    from paceline.lab.floor import crowds, floors

    return [*floors(hardware, tokens, tick), *crowds(hardware, SESSIONS, tokens, tick)]


def _lines(rows: Sequence[Cell | Floor | Crowd]) -> list[str]:
    """A Markdown table per kind of row."""
    lines: list[str] = []
    for kind in dict.fromkeys(type(row) for row in rows):
        own = [asdict(row) for row in rows if isinstance(row, kind)]
        lines += ["", f"| {' | '.join(own[0])} |", f"|{'---|' * len(own[0])}"]
        lines += [f"| {' | '.join(_cell(value) for value in row.values())} |" for row in own]
    return lines[1:]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
