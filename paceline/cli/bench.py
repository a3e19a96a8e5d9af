"""``paceline bench``: how much faster, on your prompts, in one interleaved run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from paceline.cli.drafters import DrafterUse, drafters_of, memory_of, name_all
from paceline.cli.links import links
from paceline.cli.machine import provenance
from paceline.cli.measuring import Comparison, Runner, Sample, compare, interleave, throughput
from paceline.cli.modes import COLOCATED, MODES, Asking, make_runners, parse_modes
from paceline.cli.peers.command import peers
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.running import connected, numbers, run
from paceline.cli.stack import StackOptions
from paceline.cli.table import table
from paceline.core.requests import GenerateRequest
from paceline.core.types import SamplingParams
from paceline.drafters.packaged import AUTO
from paceline.text.resolve import PACKAGED

app = typer.Typer(invoke_without_command=True, add_completion=False)
app.command("table")(table)
app.command("links")(links)
app.command("peers")(peers)


@app.callback()
def bench(
    context: typer.Context,
    prompts: Path = typer.Option(None, help="JSONL with prompt, turns or token_ids; must be given."),
    target: str = typer.Option("", help="host:port of a coordinator; without, a local stack is found or started."),
    modes: str = typer.Option("plain,pipeline", help=f"Of {', '.join(MODES)}, draft lengths; the first is the base."),
    drafter: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    model: str = typer.Option(PACKAGED, help="Of a stack that is started here, and of mode transformers."),
    quantize: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    link: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    limit: int = typer.Option(0, min=0, help="Only this many prompts, spread over the file."),
    max_tokens: int = typer.Option(128, min=1, help="Output tokens per prompt."),
    rounds: int = typer.Option(1, min=1, help="Times that everything is measured."),
    concurrency: str = typer.Option("", help="Also measure throughput at these numbers of sessions, such as 1,8."),
    temperature: float = typer.Option(0.0, help="0 is greedy."),
    top_p: float = typer.Option(1.0, help="Keep the likeliest tokens of this mass."),
    seed: int = typer.Option(0, help="Key of the noise."),
    out: Path = typer.Option(None, help="Write all samples and comparisons here as JSON."),
    json_: bool = typer.Option(False, "--json", help="The comparisons as JSON."),
) -> None:
    """Compare modes on the same prompts: medians, quartiles of paired ratios, and whether the text is the same."""
    if context.invoked_subcommand:
        return
    file = _needed(prompts)

    async def work() -> _Report:
        chosen = parse_modes(modes)
        rows = read_prompts(file, limit)
        law = SamplingParams(temperature=temperature, top_p=top_p)
        request = GenerateRequest("", sampling=law, seed=seed, max_tokens=max_tokens)
        resident = (drafter or AUTO) if COLOCATED in chosen else None
        options = StackOptions(
            verifier_model=model, drafter=drafter, resident=resident, quantize=quantize, link=link, port=0
        )
        async with connected(target, options) as client:
            asking = Asking(request, (await client.describe()).has_chat_template)
            runners = await make_runners(chosen, client, asking, model)
            report = await _measure(rows, runners, rounds, numbers(concurrency, "concurrency"))
            return replace(report, drafters=drafters_of(await client.describe_now()))

    report = run(work(), as_json=json_)
    if out is not None:
        out.write_text(json.dumps({**provenance(), **asdict(report)}, indent=1), "utf-8")
    if json_:
        typer.echo(json.dumps({**provenance(), **asdict(replace(report, samples=[]))}))
    else:
        _show(report)


def _needed(prompts: Path | None) -> Path:
    """Not marked as required, since then ``bench table`` would need it before its name, too."""
    if prompts is None:
        raise typer.BadParameter("give a JSONL file with prompt, turns or token_ids.", param_hint="'--prompts'")
    return prompts


@dataclass(frozen=True, slots=True)
class _Load:
    """Throughput of a mode with many sessions."""

    mode: str
    concurrency: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class _Report:
    """What came out."""

    baseline: str
    comparisons: list[Comparison]
    throughput: list[_Load]
    samples: list[Sample]
    drafters: list[DrafterUse] = field(default_factory=list)


async def _measure(
    rows: Sequence[PromptRow], runners: dict[str, Runner], rounds: int, levels: tuple[int, ...]
) -> _Report:
    baseline = next(iter(runners))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = len(rows) * len(runners) * (rounds + len(levels)) + len(runners)
        bar = progress.add_task("measuring", total=total)
        for runner in runners.values():  # the first request of a process pays for its pages
            await runner(rows[0])
            progress.advance(bar)
        samples = await interleave(rows, runners, rounds, lambda: progress.advance(bar))
        loads = []
        for level in levels:
            for mode, runner in runners.items():
                tokens, seconds = await throughput(rows, runner, level, lambda: progress.advance(bar))
                loads.append(_Load(mode, level, tokens / seconds))
    comparisons = compare(samples, baseline)
    return _Report(baseline, comparisons, loads, samples)


def _show(report: _Report) -> None:
    speed, same = f"× {report.baseline}", "same text"
    typer.echo(
        f"{'mode':<14}{'task':<16}{'n':>4}{'tokens/s':>10}{speed:>16}{'quartiles':>14}{'tokens/step':>13}  {same}"
    )
    for one in report.comparisons:
        spread = f"{one.low:.2f}–{one.high:.2f}"
        identical = "yes" if one.identical else "no"
        typer.echo(
            f"{one.mode:<14}{one.task:<16}{one.num:>4}{one.rate:>10.1f}{one.ratio:>16.2f}{spread:>14}"
            f"{one.tokens_per_step:>13.2f}  {identical}"
        )
    for load in report.throughput:
        typer.echo(f"{load.mode} at {load.concurrency} sessions: {load.tokens_per_second:.1f} tokens/s")
    typer.echo(f"drafter: {name_all(report.drafters)}; {memory_of(report.drafters)}")
    for one in report.comparisons:
        if one.task == "all" and one.feature_bytes is not None:
            typer.echo(f"{one.mode}: {one.feature_bytes:,.0f} bytes from the target per accepted draft token")
