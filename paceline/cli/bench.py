"""``paceline bench``: how much faster, on your prompts, in one interleaved run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from paceline.cli.machine import provenance
from paceline.cli.measuring import Comparison, Runner, Sample, compare, interleave, throughput
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.running import connected, numbers, run
from paceline.cli.stack import StackOptions, run_prepare
from paceline.client.aio import Client
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.requests import Chat, ChatMessage, DraftMode, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.text.resolve import PACKAGED, model_directory
from paceline.text.tokenizer import Tokenizer

MODES = ("plain", "pipeline", "transformers")


def bench(
    prompts: Path = typer.Option(..., help="JSONL with prompt or turns."),
    target: str = typer.Option("", help="host:port of a coordinator; without, a local stack is found or started."),
    modes: str = typer.Option("plain,pipeline", help=f"Comma-separated, of {', '.join(MODES)}; the first is the base."),
    drafter: str = typer.Option("suffix", help="Of a stack that is started here."),
    model: str = typer.Option(PACKAGED, help="Of a stack that is started here, and of mode transformers."),
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

    async def work() -> _Report:
        chosen = _modes(modes)
        rows = read_prompts(prompts, limit)
        params = SamplingParams(temperature=temperature, top_p=top_p)
        async with connected(target, StackOptions(verifier_model=model, drafter=drafter, port=0)) as client:
            maker = _Maker(client, params, seed, max_tokens, (await client.describe()).has_chat_template)
            runners = {mode: await maker.runner(mode, model) for mode in chosen}
            return await _measure(rows, runners, rounds, numbers(concurrency, "concurrency"))

    report = run(work(), as_json=json_)
    if out is not None:
        out.write_text(json.dumps({**provenance(), **asdict(report)}, indent=1), "utf-8")
    if json_:
        typer.echo(json.dumps({**provenance(), **asdict(replace(report, samples=[]))}))
    else:
        _show(report)


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


def _modes(text: str) -> list[str]:
    chosen = [mode for mode in text.split(",") if mode]
    bad = [mode for mode in chosen if mode not in MODES]
    if bad or not chosen:
        raise InvalidRequest(f"modes: {text!r} is not a list of {', '.join(MODES)}.")
    return chosen


class _Maker:
    """Makes a runner per mode."""

    def __init__(self, client: Client, params: SamplingParams, seed: int, max_tokens: int, chat: bool) -> None:
        self._client = client
        self._params = params
        self._seed = seed
        self._max_tokens = max_tokens
        self._chat = chat

    async def runner(self, mode: str, model: str) -> Runner:
        """Measures one prompt."""
        return await self._peer(model) if mode == "transformers" else self._ours(mode)

    def _ours(self, mode: str) -> Runner:
        async def measure(row: PromptRow) -> Sample:
            request = GenerateRequest(
                Chat((ChatMessage("user", row.text),)) if self._chat else row.text,
                sampling=self._params,
                seed=self._seed,
                max_tokens=self._max_tokens,
                mode=DraftMode(mode),
            )
            done = await self._client.complete(request)
            speculative, tokens = done.finished.speculative, len(done.token_ids)
            per_step = tokens / max(speculative.num_steps, 1)
            acceptance = speculative.mean_acceptance_length
            return Sample(
                mode, row.task, row.name, 0, tokens, done.finished.total_s, per_step, acceptance, done.token_ids
            )

        return measure

    async def _peer(self, model: str) -> Runner:
        if self._params.temperature:
            raise InvalidRequest("modes: transformers is only compared greedily; leave the temperature at 0.")
        from paceline.models.peer import TransformersPeer

        directory = await _prepared(model)
        peer, tokenizer = TransformersPeer(directory), Tokenizer.load(directory)

        async def measure(row: PromptRow) -> Sample:
            prompt = tokenizer.chat([("user", row.text)]) if self._chat else tokenizer.encode(row.text)
            tokens, seconds = peer.generate(prompt, self._max_tokens)
            return Sample("transformers", row.task, row.name, 0, len(tokens), seconds, 1.0, 0.0, tokens)

        return measure


async def _prepared(model: str) -> Path:
    try:
        return model_directory(model)
    except NotFound:
        await run_prepare(model)
        return model_directory(model)


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
