"""``paceline check-lossless``: proves on your prompts that drafts change nothing but the time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from paceline.cli.modes import COLOCATED
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.running import connected, numbers, run, say
from paceline.cli.stack import StackOptions, running_stack
from paceline.client.aio import Client
from paceline.core.errors import PacelineError
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import SamplingParams, Tokens
from paceline.drafters.packaged import AUTO
from paceline.text.resolve import PACKAGED


@dataclass(frozen=True, slots=True)
class _Law:
    """Sampling parameters that every prompt is tried with."""

    name: str
    params: SamplingParams
    seed: int


@dataclass(slots=True)
class _Tally:
    """Of one drafter and law."""

    drafter: str
    law: str
    prompts: int = 0
    tokens: int = 0
    mismatches: int = 0
    errors: int = 0
    steps: int = 0
    accepted: int = 0


def check_lossless(
    prompts: Path = typer.Option(..., help="JSONL with prompt or turns."),
    target: str = typer.Option("", help="Check this running coordinator instead of stacks started here."),
    drafters: str = typer.Option(
        "colocated,auto,suffix,ngram,model,random",
        help="Started one after the other, without --target; NAME=DIRECTORY for one with weights of its own.",
    ),
    model: str = typer.Option(PACKAGED, help="Target model, without --target; a model drafter runs it too."),
    link: str = typer.Option("", help="As for paceline up, without --target."),
    limit: int = typer.Option(0, min=0, help="Only this many prompts, spread over the file."),
    max_tokens: int = typer.Option(48, min=1, help="Output tokens per prompt."),
    temperature: float = typer.Option(0.8, help="Of the sampled runs; greedy runs always take place."),
    top_p: float = typer.Option(0.95, help="Of the sampled runs."),
    seeds: str = typer.Option("1,2", help="Of the sampled runs, comma-separated."),
    max_draft: int = typer.Option(8, min=1, help="Draft tokens per step."),
    concurrency: int = typer.Option(4, min=1, help="Sessions at once, so that batches differ too."),
    json_: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Compare every prompt with and without drafts, token for token; exit 1 on any difference."""
    laws = [_Law("greedy", SamplingParams(), 0)]
    sampled = SamplingParams(temperature=temperature, top_p=top_p)
    laws += [_Law(f"T={temperature:g} top-p={top_p:g} seed={seed}", sampled, seed) for seed in numbers(seeds, "seeds")]

    async def work() -> list[_Tally]:
        checker = _Checker(read_prompts(prompts, limit), laws, max_tokens, max_draft, concurrency)
        if target:
            async with connected(target) as client:
                await checker.check(client, "running")
            return checker.tallies
        for name in drafters.split(","):
            options = _stack(name, model, link)
            say(f"drafter {name}")
            async with running_stack(options, say) as stack, Client(stack.grpc) as client:
                await checker.check(client, name)
        return checker.tallies

    tallies = run(work(), as_json=json_)
    bad = sum(tally.mismatches + tally.errors for tally in tallies)
    if json_:
        typer.echo(json.dumps({"lossless": bad == 0, "runs": [asdict(tally) for tally in tallies]}))
    else:
        _show(tallies, bad)
    if bad:
        raise typer.Exit(1)


def _stack(drafter: str, model: str, link: str) -> StackOptions:
    """With that drafter in a pool, or inside the verifier where it is called colocated."""
    name, _, weights = drafter.partition("=")
    if name == COLOCATED:
        return StackOptions(verifier_model=model, resident=AUTO, resident_model=weights, port=0)
    weights = weights or (model if name == "model" else "")
    return StackOptions(verifier_model=model, drafter=name, drafter_model=weights, link=link, port=0)


class _Checker:
    """Plain output is made once per prompt and law, then compared with the output with drafts."""

    def __init__(
        self, rows: Sequence[PromptRow], laws: Sequence[_Law], max_tokens: int, max_draft: int, concurrency: int
    ) -> None:
        self.tallies: list[_Tally] = []
        self._rows = rows
        self._laws = laws
        self._max_tokens = max_tokens
        self._max_draft = max_draft
        self._gate = asyncio.Semaphore(concurrency)
        self._references: dict[tuple[str, int, str], Tokens] = {}

    async def check(self, client: Client, drafter: str) -> None:
        """All prompts under all laws."""
        chat = (await client.describe()).has_chat_template
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(drafter, total=len(self._rows) * len(self._laws))
            for law in self._laws:
                tally = _Tally(drafter, law.name)
                self.tallies.append(tally)
                jobs = [self._one(client, row, index, law, tally, chat) for index, row in enumerate(self._rows)]
                for job in asyncio.as_completed(jobs):
                    await job
                    progress.advance(bar)
                counts = f"{tally.prompts} prompts, {tally.tokens} tokens, {tally.mismatches} mismatches"
                say(f"{drafter}, {law.name}: {counts}, {tally.errors} errors")

    async def _one(self, client: Client, row: PromptRow, index: int, law: _Law, tally: _Tally, chat: bool) -> None:
        request = GenerateRequest(
            row.prompt(is_chat=chat),
            sampling=law.params,
            seed=law.seed,
            max_tokens=self._max_tokens,
            max_draft=self._max_draft,
            mode=DraftMode.PLAIN,
        )
        async with self._gate:
            try:
                reference = await self._reference(client, request, (row.name, index, law.name))
                drafted = await client.complete(replace(request, mode=None))
            except PacelineError as error:
                say(f"prompt {row.name}: {error.code}: {error}")
                tally.errors += 1
                return
        tally.prompts += 1
        tally.tokens += len(reference)
        tally.steps += drafted.finished.speculative.num_steps
        tally.accepted += drafted.finished.speculative.num_accepted_draft_tokens
        if drafted.token_ids != reference:
            tally.mismatches += 1
            say(f"prompt {row.name}, {law.name}: differs from token {_first_difference(reference, drafted.token_ids)}")

    async def _reference(self, client: Client, request: GenerateRequest, key: tuple[str, int, str]) -> Tokens:
        if key not in self._references:
            self._references[key] = (await client.complete(request)).token_ids
        return self._references[key]


def _first_difference(a: Tokens, b: Tokens) -> int:
    pairs: Iterator[tuple[int, int]] = zip(a, b, strict=False)
    return next((index for index, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _show(tallies: Sequence[_Tally], bad: int) -> None:
    from rich.table import Table

    table = Table("drafter", "sampling", "prompts", "tokens", "tokens/step", "mismatches", "errors")
    for one in tallies:
        rate = f"{one.tokens / one.steps:.2f}" if one.steps else "-"
        cells = (one.prompts, one.tokens, rate, one.mismatches, one.errors)
        table.add_row(one.drafter, one.law, *map(str, cells))
    console = Console()
    console.print(table)
    console.print("lossless: every token equal" if not bad else f"NOT lossless: {bad} prompts differ or failed")
