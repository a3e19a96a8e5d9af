"""``paceline profile``: what steps and calls cost on this machine, as settings of synthetic parties."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from paceline.cli.machine import provenance
from paceline.cli.profiling import (
    CallLine,
    Shape,
    StepLine,
    Timing,
    fit_calls,
    fit_steps,
    measure_calls,
    measure_steps,
    worst_error,
)
from paceline.cli.running import numbers, run, say
from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.ports import VerifierBackend
from paceline.drafters.packaged import AUTO, choose_drafter
from paceline.telemetry.clock import SystemClock
from paceline.text.resolve import PACKAGED
from paceline.verifiers import create_backend


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to measure."""

    model: str
    drafter: str
    drafter_model: str
    shapes: tuple[Shape, ...]
    lengths: tuple[int, ...]
    repeats: int
    threads: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured."""

    model: str
    drafter: str
    steps: list[Timing]
    step: StepLine
    calls: dict[int, list[float]]
    call: CallLine


def profile(
    model: str = typer.Option(PACKAGED, help="Target, as for paceline up."),
    drafter: str = typer.Option(AUTO, help="As for paceline up; empty for none."),
    drafter_model: str = typer.Option("", help="What it loads."),
    rows: str = typer.Option("1,2,3,4,6,8,12,16,32,64", help="Rows of a step of one session."),
    sessions: str = typer.Option("1,4,16", help="Sessions of a step of one row each."),
    context: str = typer.Option("128,1024", help="Tokens before the rows."),
    repeats: int = typer.Option(20, min=3, help="Times that each is measured; medians count."),
    threads: int = typer.Option(0, min=0, help="Compute threads; 0 uses all cores."),
    out: Path = typer.Option(None, help="Write settings here, YAML for paceline up --config."),
    json_: bool = typer.Option(False, "--json", help="Everything that was measured, as JSON."),
) -> None:
    """Measure what a verify step and a drafter's call cost here; write them as a profile that any machine can play."""

    async def work() -> Profile:
        shapes = _shapes(numbers(rows, "rows"), numbers(sessions, "sessions"), numbers(context, "context"))
        wanted = _Wanted(model, drafter, drafter_model, shapes, (1, 2, 4, 8, 16), repeats, threads)
        return await _measure(wanted, is_quiet=json_)

    found = run(work(), as_json=json_)
    if out is not None:
        _write(out, as_yaml(found))
    if json_:
        typer.echo(json.dumps({**provenance(), **asdict(found)}))
    else:
        _show(found)


def _shapes(rows: Sequence[int], sessions: Sequence[int], contexts: Sequence[int]) -> tuple[Shape, ...]:
    if not (rows and sessions and contexts) or min(*rows, *sessions, *contexts) < 1:
        raise InvalidRequest("rows, sessions and context must be numbers from 1 on, such as 1,4,16.")
    pairs = [(count, 1) for count in rows] + [(1, count) for count in sessions]
    return tuple(Shape(count, context, own) for context in contexts for count, own in dict.fromkeys(pairs))


async def _measure(wanted: _Wanted, *, is_quiet: bool) -> Profile:
    clock = SystemClock()
    settings = VerifierSettings(
        model=wanted.model,
        threads=wanted.threads,
        max_sessions=max(shape.sessions for shape in wanted.shapes),
        max_context=max(shape.context + shape.rows for shape in wanted.shapes) + 2,
    )
    say(f"loading {wanted.model}")
    backend = await asyncio.to_thread(create_backend, settings, clock)
    contexts = {shape.context for shape in wanted.shapes}
    console = Console(stderr=True, quiet=is_quiet)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("steps", total=len(wanted.shapes) * (wanted.repeats + 1))
        say(f"measuring {len(wanted.shapes)} kinds of steps with contexts of {', '.join(map(str, sorted(contexts)))}")
        steps = await measure_steps(
            backend, clock, wanted.shapes, wanted.repeats, lambda count: bar.advance(task, count)
        )
    name, calls = await _calls(wanted, backend)
    call = fit_calls(calls) if calls else CallLine(0.0, 0.0)
    return Profile(wanted.model, name, steps, fit_steps(steps), calls, call)


async def _calls(wanted: _Wanted, backend: VerifierBackend) -> tuple[str, dict[int, list[float]]]:
    """In the thread of the steps, as a resident drafter computes."""
    if not wanted.drafter:
        return "", {}
    from verifier_service.app import create_resident, required

    name, weights = choose_drafter(wanted.drafter, wanted.drafter_model, wanted.model)
    say(f"measuring calls of {name}")
    settings = VerifierSettings(resident=name, resident_model=weights, threads=wanted.threads)

    def work() -> dict[int, list[float]]:
        drafter = required(lambda: create_resident(settings, backend.info, backend.state))
        return measure_calls(drafter, SystemClock(), wanted.lengths, wanted.repeats)

    return name, await asyncio.get_running_loop().run_in_executor(backend.worker, work)


def as_yaml(found: Profile) -> str:
    """Sections for ``paceline up --config``, below what they were measured with."""
    facts = provenance()
    head = [
        " ".join(map(str, facts["command"])) if isinstance(facts["command"], list) else "",
        f"{found.model}, {found.drafter or 'no drafter'}; {facts['cpu']}, {facts['cores']} cores, {facts['time']}",
        f"the lines below are at most {worst_error(found.step, found.steps):.0%} off what was measured",
    ]
    step = {f"step_{name}": round(value, 9) for name, value in asdict(found.step).items()}
    call = {f"call_{name}": round(value, 9) for name, value in asdict(found.call).items()}
    sections: dict[str, Any] = {"verifier": {"backend": "synthetic", "synthetic": step}}
    if found.drafter:
        sections["drafter"] = {"drafter": "synthetic", "synthetic": call}
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(sections, sort_keys=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ResourceExhausted(f"out: {path} can't be written ({error}); choose another place.") from error


def _show(found: Profile) -> None:
    table = Table(title=f"{found.model}: a step")
    for heading in ("rows", "sessions", "context", "ms", "by the line"):
        table.add_column(heading, justify="right")
    for one in found.steps:
        shape = one.shape
        times = (f"{one.median_s * 1e3:.2f}", f"{found.step.seconds(shape) * 1e3:.2f}")
        table.add_row(str(shape.rows), str(shape.sessions), str(shape.context), *times)
    console = Console()
    console.print(table)
    line = found.step
    console.print(
        f"step = {line.base_s * 1e3:.2f} ms + {line.row_s * 1e3:.3f} ms a row + {line.kv_s * 1e9:.1f} ns a row and "
        f"cached position (at most {worst_error(line, found.steps):.0%} off)"
    )
    if found.drafter:
        call = found.call
        console.print(f"call of {found.drafter} = {call.base_s * 1e3:.2f} ms + {call.token_s * 1e3:.3f} ms a token")
