"""Interleaved measurements: every prompt in every mode before the next prompt, in changing order."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from paceline.cli.prompts import PromptRow
from paceline.core.requests import SpeculativeMetrics


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt in one mode."""

    mode: str
    task: str
    prompt: str
    round: int
    tokens: int
    seconds: float
    tokens_per_step: float
    acceptance_length: float
    token_ids: tuple[int, ...]
    first_token_s: float | None = None
    """From arrival to the first token; None where that can't be seen."""
    speculative: SpeculativeMetrics = field(default_factory=SpeculativeMetrics)

    @property
    def rate(self) -> float:
        """Tokens per second of the whole request."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def token_s(self) -> float | None:
        """Seconds between two tokens after the first one; None where that can't be seen."""
        if self.first_token_s is None or self.tokens < 2:
            return None
        return (self.seconds - self.first_token_s) / (self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A mode against the baseline on the same prompts and rounds."""

    mode: str
    task: str
    num: int
    rate: float
    """Median tokens/s."""
    ratio: float
    """Median of the paired ratios to the baseline."""
    low: float
    high: float
    """Quartiles of the paired ratios."""
    tokens_per_step: float
    identical: bool
    """All outputs equal the baseline's."""
    feature_bytes: float | None
    """As ``feature_bytes``."""


Runner = Callable[[PromptRow], Awaitable[Sample]]


async def take_turns(rows: Sequence[PromptRow], runners: Mapping[str, Runner], rounds: int) -> AsyncGenerator[Sample]:
    """Samples as they come; the order of modes turns with every prompt, so that a drift of the machine hits all."""
    modes = list(runners)
    for number in range(rounds):
        for index, row in enumerate(rows):
            first = (index + number) % len(modes)
            for mode in modes[first:] + modes[:first]:
                yield replace(await runners[mode](row), round=number)


async def interleave(
    rows: Sequence[PromptRow], runners: Mapping[str, Runner], rounds: int, tick: Callable[[], None]
) -> list[Sample]:
    """All samples, in turns; ``tick`` is called after each."""
    samples = []
    async with aclosing(take_turns(rows, runners, rounds)) as turns:
        async for sample in turns:
            samples.append(sample)
            tick()
    return samples


def compare(samples: Sequence[Sample], baseline: str) -> list[Comparison]:
    """Per mode and task, and over all tasks (task "all")."""
    base = {(one.prompt, one.round): one for one in samples if one.mode == baseline}
    tasks = sorted({one.task for one in samples})
    modes = list(dict.fromkeys(one.mode for one in samples))
    wanted = [(mode, task) for mode in modes for task in (*tasks, "all")]
    return [
        _compare(mode, task, [one for one in samples if one.mode == mode and task in (one.task, "all")], base)
        for mode, task in wanted
    ]


def _compare(mode: str, task: str, own: Sequence[Sample], base: dict[tuple[str, int], Sample]) -> Comparison:
    pairs = [(one, base[one.prompt, one.round]) for one in own if (one.prompt, one.round) in base]
    ratios = sorted(one.rate / other.rate for one, other in pairs)
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Comparison(
        mode,
        task,
        len(own),
        statistics.median(one.rate for one in own),
        statistics.median(ratios),
        quartiles[0],
        quartiles[2],
        statistics.fmean(one.tokens_per_step for one in own),
        all(one.token_ids == other.token_ids for one, other in pairs),
        feature_bytes(own),
    )


def feature_bytes(own: Sequence[Sample]) -> float | None:
    """Bytes of hidden states between services per accepted draft token; None when none was accepted."""
    accepted = sum(one.speculative.num_accepted_draft_tokens for one in own)
    return sum(one.speculative.num_feature_bytes for one in own) / accepted if accepted else None


async def throughput(
    rows: Sequence[PromptRow], runner: Runner, concurrency: int, tick: Callable[[], None]
) -> tuple[int, float]:
    """(tokens, seconds) for all rows with ``concurrency`` at a time."""
    gate = asyncio.Semaphore(concurrency)

    async def one(row: PromptRow) -> int:
        async with gate:
            sample = await runner(row)
        tick()
        return sample.tokens

    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(row) for row in rows)))
    return tokens, time.perf_counter() - started
