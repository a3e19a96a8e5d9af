"""``paceline check-lossless``: proves on your prompts that drafts change nothing but the time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import Progress

from paceline.cli.modes import COLOCATED
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.running import connected, numbers, run, say
from paceline.cli.stack import StackOptions, running_stack
from paceline.client.aio import Client, Completion
from paceline.core.errors import InvalidRequest, PacelineError
from paceline.core.requests import CoordinatorInfo, DraftMode, GenerateRequest
from paceline.core.types import SamplingParams, Tokens
from paceline.drafters.packaged import AUTO
from paceline.text.resolve import PACKAGED


@dataclass(frozen=True, slots=True)
class Law:
    """Sampling parameters that every prompt is tried with."""

    name: str
    params: SamplingParams
    seed: int


@dataclass(slots=True)
class Tally:
    """Of one drafter, mode and law."""

    drafter: str
    mode: str
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
    modes: str = typer.Option(
        "",
        help=f"Of {', '.join(DraftMode)}; without --target colocated is tried with the drafter of that name, sync, "
        "pipeline and lookahead with all others. Empty: the mode that requests get by default.",
    ),
    link: str = typer.Option("", help="As for paceline up, without --target."),
    limit: int = typer.Option(0, min=0, help="Only this many prompts, spread over the file."),
    max_tokens: int = typer.Option(48, min=1, help="Output tokens per prompt."),
    temperature: float = typer.Option(0.8, help="Of the sampled runs; greedy runs always take place."),
    top_p: float = typer.Option(0.95, help="Of the sampled runs."),
    seeds: str = typer.Option("1,2", help="Of the sampled runs, comma-separated."),
    max_draft: int = typer.Option(8, min=1, help="Draft tokens per step."),
    concurrency: int = typer.Option(
        8, "--concurrency", "--sessions", min=1, help="Sessions at once, so that batches differ too."
    ),
    json_: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Compare every prompt with and without drafts, token for token; exit 1 on any difference."""
    laws = [Law("greedy", SamplingParams(), 0)]
    sampled = SamplingParams(temperature=temperature, top_p=top_p)
    laws += [Law(f"T={temperature:g} top-p={top_p:g} seed={seed}", sampled, seed) for seed in numbers(seeds, "seeds")]

    async def work() -> list[Tally]:
        chosen = parse_modes(modes)
        checker = Checker(read_prompts(prompts, limit), laws, max_tokens, max_draft, concurrency)
        if target:
            async with connected(target) as client:
                await checker.check(client, "running", chosen)
            return checker.tallies
        for name, own in plan(drafters.split(","), chosen):
            options = _stack(name, model, link)
            say(f"drafter {name}")
            async with running_stack(options, say) as stack, Client(stack.grpc) as client:
                await checker.check(client, name, own)
        return checker.tallies

    tallies = run(work(), as_json=json_)
    bad = sum(tally.mismatches + tally.errors for tally in tallies)
    if json_:
        typer.echo(json.dumps({"lossless": bad == 0, "runs": [asdict(tally) for tally in tallies]}))
    else:
        _show(tallies, bad)
    if bad:
        raise typer.Exit(1)


def parse_modes(text: str) -> list[DraftMode | None]:
    """Comma-separated; None alone where there are none. Raises ``InvalidRequest``."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in tuple(DraftMode)]
    if unknown:
        raise InvalidRequest(f"modes: {unknown[0]!r} is no mode; choose of {', '.join(DraftMode)}.")
    return [DraftMode(name) for name in dict.fromkeys(names)] or [None]


def plan(drafters: Sequence[str], modes: Sequence[DraftMode | None]) -> list[tuple[str, list[DraftMode | None]]]:
    """Which modes to try with each drafter; those that it can't serve are left to others."""
    found = []
    for name in drafters:
        is_inside = name.partition("=")[0] == COLOCATED
        foreign = _ELSEWHERE if is_inside else (DraftMode.COLOCATED,)
        own = [mode for mode in modes if mode not in foreign]
        if own:
            found.append((name, own))
    left = [mode for mode in modes if not any(mode in own for _, own in found)]
    if left:
        raise InvalidRequest(f"drafters: none of {', '.join(drafters)} serves mode {left[0]}; name one that does.")
    return found


_ELSEWHERE = (DraftMode.SYNC, DraftMode.PIPELINE, DraftMode.LOOKAHEAD)
"""Modes of drafters in a pool."""


class Checked(Protocol):
    """A client, or what answers like one."""

    async def describe(self) -> CoordinatorInfo:
        """Whether there is a chat template."""

    async def complete(self, request: GenerateRequest) -> Completion:
        """The whole answer at once."""


def _stack(drafter: str, model: str, link: str) -> StackOptions:
    """With that drafter in a pool, or inside the verifier where it is called colocated."""
    name, _, weights = drafter.partition("=")
    if name == COLOCATED:
        return StackOptions(verifier_model=model, resident=AUTO, resident_model=weights, port=0)
    weights = weights or (model if name == "model" else "")
    return StackOptions(verifier_model=model, drafter=name, drafter_model=weights, link=link, port=0)


class Checker:
    """Plain output is made once per prompt and law, then compared with the output with drafts."""

    def __init__(
        self, rows: Sequence[PromptRow], laws: Sequence[Law], max_tokens: int, max_draft: int, concurrency: int
    ) -> None:
        self.tallies: list[Tally] = []
        self._rows = rows
        self._laws = laws
        self._max_tokens = max_tokens
        self._max_draft = max_draft
        self._gate = asyncio.Semaphore(concurrency)
        self._references: dict[tuple[str, int, str], Tokens] = {}

    async def check(self, client: Checked, drafter: str, modes: Sequence[DraftMode | None]) -> None:
        """All prompts in all modes under all laws; None is the mode that requests get by default."""
        chat = (await client.describe()).has_chat_template
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(drafter, total=len(self._rows) * len(self._laws) * len(modes))
            for mode in modes:
                for law in self._laws:
                    tally = Tally(drafter, mode or "default", law.name)
                    self.tallies.append(tally)
                    progress.update(bar, description=f"{drafter}, {tally.mode}, {law.name}")
                    jobs = [self._one(client, row, index, law, tally, chat) for index, row in enumerate(self._rows)]
                    for job in asyncio.as_completed(jobs):
                        await job
                        progress.advance(bar)
                    counts = f"{tally.prompts} prompts, {tally.tokens} tokens, {tally.mismatches} mismatches"
                    say(f"{drafter}, {tally.mode}, {law.name}: {counts}, {tally.errors} errors")

    async def _one(self, client: Checked, row: PromptRow, index: int, law: Law, tally: Tally, chat: bool) -> None:
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
                drafted = await client.complete(
                    replace(request, mode=None if tally.mode == "default" else DraftMode(tally.mode))
                )
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
            place = _first_difference(reference, drafted.token_ids)
            say(f"prompt {row.name}, {tally.mode}, {law.name}: differs from token {place}")

    async def _reference(self, client: Checked, request: GenerateRequest, key: tuple[str, int, str]) -> Tokens:
        if key not in self._references:
            self._references[key] = (await client.complete(request)).token_ids
        return self._references[key]


def _first_difference(a: Tokens, b: Tokens) -> int:
    pairs: Iterator[tuple[int, int]] = zip(a, b, strict=False)
    return next((index for index, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _show(tallies: Sequence[Tally], bad: int) -> None:
    from rich.table import Table

    table = Table("drafter", "mode", "sampling", "prompts", "tokens", "tokens/step", "mismatches", "errors")
    for one in tallies:
        rate = f"{one.tokens / one.steps:.2f}" if one.steps else "-"
        cells = (one.prompts, one.tokens, rate, one.mismatches, one.errors)
        table.add_row(one.drafter, one.mode, one.law, *map(str, cells))
    console = Console()
    console.print(table)
    console.print("lossless: every token equal" if not bad else f"NOT lossless: {bad} prompts differ or failed")
