"""The command: a stack of ours and every peer that is there, one run, one table."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paceline.cli.machine import provenance
from paceline.cli.modes import COLOCATED, MODES, TRANSFORMERS, Asking, encoder, parse_modes, prepared
from paceline.cli.peers.catalogue import ENGINES, parse_peers, parse_pythons
from paceline.cli.peers.figures import Figure, Lead, figures, leads, page
from paceline.cli.peers.measuring import Absent, Contender, Plan, Turn, check_someone, measure, ours
from paceline.cli.peers.starting import Lineup, Weights, describe_gguf, started
from paceline.cli.prompts import read_prompts
from paceline.cli.running import connected, numbers, run, say
from paceline.cli.stack import StackOptions
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.requests import GenerateRequest
from paceline.core.types import SamplingParams
from paceline.drafters.packaged import AUTO
from paceline.models.packaged import gguf_file
from paceline.text.resolve import PACKAGED

OUR_MODES = tuple(mode for mode in MODES if mode != TRANSFORMERS)


def peers(
    prompts: Path = typer.Option(..., help="JSONL with prompt, turns or token_ids."),
    peers_: str = typer.Option(",".join(ENGINES), "--peers", help="Engines, or engine:mode for one of its modes."),
    modes: str = typer.Option("plain,colocated", help=f"Ours: of {', '.join(OUR_MODES)}, draft lengths."),
    streams: str = typer.Option("1,8", help="Prompts at a time."),
    target: str = typer.Option("", help="host:port of a coordinator; without, a local stack is found or started."),
    drafter: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    model: str = typer.Option(PACKAGED, help="Of everybody: the stack that is started here, and the peers."),
    gguf: Path = typer.Option(None, help="The model as a GGUF file, when --model is a directory."),
    assistant: str = typer.Option("", help="Directory of a smaller model, for transformers:assisted."),
    python: list[str] = typer.Option([], help="ENGINE=PATH: an environment of your own with that engine; repeatable."),
    limit: int = typer.Option(0, min=0, help="Only this many prompts, spread over the file."),
    max_tokens: int = typer.Option(128, min=1, help="Output tokens per prompt, of everybody."),
    rounds: int = typer.Option(1, min=1, help="Times that everything is measured."),
    out: Path = typer.Option(None, help="Write figures and all turns here as JSON."),
    json_: bool = typer.Option(False, "--json", help="The figures as JSON."),
) -> None:
    """Compare with other engines: same prompts, weights, lengths and machine, in turns; greedy, past ends of text."""

    async def work() -> _Report:
        chosen, levels = _our_modes(modes), _levels(streams)
        known, pythons = parse_peers(peers_), parse_pythons(python)
        _check_folder(out)
        rows = read_prompts(prompts, limit)
        directory = await prepared(model)
        request = GenerateRequest("", sampling=SamplingParams(temperature=0.0), max_tokens=max_tokens, ignore_eos=True)
        resident = (drafter or AUTO) if COLOCATED in chosen else None
        options = StackOptions(verifier_model=model, drafter=drafter, resident=resident, port=0)
        with _weights(model, directory, gguf) as weights:
            async with connected(target, options) as client:
                asking = Asking(request, (await client.describe()).has_chat_template)
                encode = encoder(directory, is_chat=asking.is_chat)
                longest = max(len(encode(row)) for row in rows)
                lineup = Lineup(known, weights, max_tokens, longest, max(levels), assistant, pythons)
                async with started(lineup, encode, say) as (ready, absent):
                    check_someone(ready, absent)
                    contenders = [ours(mode, client, asking) for mode in chosen] + ready
                    return await _measure(contenders, Plan(rows, levels, rounds), absent)

    report = run(work(), as_json=json_)
    if out is not None:
        out.write_text(json.dumps({**provenance(), **report.as_json(), "turns": [*map(asdict, report.turns)]}), "utf-8")
    if json_:
        typer.echo(json.dumps({**provenance(), **report.as_json()}))
    else:
        typer.echo(page(report.figures, report.leads, report.absent), nl=False)


@dataclass(frozen=True, slots=True)
class _Report:
    """What came out."""

    figures: list[Figure]
    leads: list[Lead]
    absent: list[Absent]
    versions: dict[str, str]
    """Of the engines, by contender."""
    turns: list[Turn]

    def as_json(self) -> dict[str, object]:
        """All but the turns."""
        return {
            "figures": [asdict(one) for one in self.figures],
            "leads": [asdict(one) for one in self.leads],
            "absent": [asdict(one) for one in self.absent],
            "versions": self.versions,
        }


async def _measure(contenders: Sequence[Contender], plan: Plan, absent: Sequence[Absent]) -> _Report:
    with _progress(plan.num_turns(contenders)) as tick:
        turns, fallen = await measure(contenders, plan, tick)
    rows = figures(contenders, turns)
    versions = {one.name: one.about.engine for one in contenders if one.about}
    return _Report(rows, leads(rows, turns), [*absent, *fallen], versions, turns)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("measuring", total=total)
        yield lambda what: progress.update(bar, advance=1, description=what)


@contextmanager
def _weights(model: str, directory: Path, given: Path | None) -> Iterator[Weights]:
    with tempfile.TemporaryDirectory() as scratch, gguf_file(str(given or model), Path(scratch)) as file:
        types, bits = describe_gguf(file) if file else ("", 0.0)
        yield Weights(directory, file, types, bits)


def _our_modes(text: str) -> list[str]:
    chosen = parse_modes(text)
    if TRANSFORMERS in chosen:
        raise InvalidRequest(f"modes: {TRANSFORMERS} is a peer here; name it with --peers.")
    return chosen


def _levels(text: str) -> tuple[int, ...]:
    levels = tuple(sorted(set(numbers(text, "streams"))))
    if not levels or levels[0] < 1:
        raise InvalidRequest(f"streams: {text!r} is not a list of numbers of 1 or more.")
    return levels


def _check_folder(out: Path | None) -> None:
    if out is not None and not out.absolute().parent.is_dir():
        raise NotFound(f"There is no directory {out.parent} for {out.name}; make it first.")
