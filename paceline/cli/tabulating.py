"""From interleaved samples to the table: per mode and task and over all, speed, acceptance, quality. Pure.

Speeds are medians over prompts and speed-ups medians of ratios paired by prompt; acceptance is counted over all steps
of a group. Every prompt counts alike in the task "all".
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.cli.measuring import Sample, compare
from paceline.cli.modes import PIPELINE, PLAIN, TRANSFORMERS
from paceline.core.types import Tokens

ALL = "all"
NOTHING = "–"

LogLikelihoods = Mapping[tuple[str, Tokens], float]
"""Sum of the log-probabilities of an output's tokens under the target, by prompt and output; a prompt's name."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One mode on one task."""

    mode: str
    task: str
    num: int
    """Requests."""
    ms_per_token: float | None
    """Median time between two tokens after the first one; None where that can't be seen."""
    tokens_per_s: float
    """Median over requests, the time of the prompt included."""
    speedup: float
    """Median of the ratios of ``tokens_per_s``, paired by prompt and round, to plain decoding."""
    low: float
    high: float
    """Quartiles of these ratios."""
    acceptance_rate: float | None
    """Accepted over checked draft tokens; None when none was checked."""
    tau: float | None
    """Mean acceptance length: tokens per step with drafts, the target's own included; None without such steps."""
    tokens_per_step: float | None
    """Over all steps, those without drafts included; None where steps can't be seen."""
    identical: float
    """Share of outputs that are plain decoding's, token for token."""
    feature_bytes: float | None
    """Bytes of hidden states between services per accepted draft token; None when none was accepted."""
    log_likelihood: float | None
    """Mean log-probability of an output token under the target at temperature 1; None when not measured."""


def tabulate(samples: Sequence[Sample], scores: LogLikelihoods | None = None) -> list[TableRow]:
    """Rows per mode and task and over all; the samples must hold plain decoding."""
    base = {(one.prompt, one.round): one.token_ids for one in samples if one.mode == PLAIN}
    rows = []
    for one in compare(samples, PLAIN):
        own = [sample for sample in samples if sample.mode == one.mode and one.task in (sample.task, ALL)]
        rows.append(
            TableRow(
                mode=one.mode,
                task=one.task,
                num=one.num,
                ms_per_token=_ms_per_token(own),
                tokens_per_s=one.rate,
                speedup=one.ratio,
                low=one.low,
                high=one.high,
                acceptance_rate=_acceptance_rate(own),
                tau=_tau(own),
                tokens_per_step=_tokens_per_step(own),
                identical=_identical(own, base),
                feature_bytes=one.feature_bytes,
                log_likelihood=_log_likelihood(own, scores),
            )
        )
    return rows


def _identical(own: Sequence[Sample], base: Mapping[tuple[str, int], Tokens]) -> float:
    return statistics.fmean(sample.token_ids == base[sample.prompt, sample.round] for sample in own)


def _ms_per_token(own: Sequence[Sample]) -> float | None:
    times = [one.token_s * 1e3 for one in own if one.token_s is not None]
    return statistics.median(times) if times else None


def _acceptance_rate(own: Sequence[Sample]) -> float | None:
    checked = sum(one.speculative.num_draft_tokens for one in own)
    return sum(one.speculative.num_accepted_draft_tokens for one in own) / checked if checked else None


def _tau(own: Sequence[Sample]) -> float | None:
    steps = sum(one.speculative.num_spec_steps for one in own)
    return 1 + sum(one.speculative.num_accepted_draft_tokens for one in own) / steps if steps else None


def _tokens_per_step(own: Sequence[Sample]) -> float | None:
    steps = sum(one.speculative.num_steps for one in own)
    return sum(one.tokens for one in own) / steps if steps else None


def _log_likelihood(own: Sequence[Sample], scores: LogLikelihoods | None) -> float | None:
    tokens = sum(one.tokens for one in own)
    if scores is None or not tokens:
        return None
    return sum(scores[one.prompt, one.token_ids] for one in own) / tokens


def whole_turns(samples: Sequence[Sample], num_modes: int) -> list[Sample]:
    """Samples of prompts that ran in every mode, for a measurement that was cut short."""
    turns: dict[tuple[str, int], int] = {}
    for one in samples:
        turns[one.prompt, one.round] = turns.get((one.prompt, one.round), 0) + 1
    return [one for one in samples if turns[one.prompt, one.round] == num_modes]


def mean_tau(rows: Sequence[TableRow]) -> dict[str, float]:
    """Of each mode with drafts, the mean over tasks, each counting alike."""
    by_mode: dict[str, list[float]] = {}
    for row in rows:
        if row.task != ALL and row.tau is not None:
            by_mode.setdefault(row.mode, []).append(row.tau)
    return {mode: statistics.fmean(values) for mode, values in by_mode.items()}


def is_lossless(rows: Sequence[TableRow]) -> bool:
    """Every output of our own engine is plain decoding's; ``transformers`` rounds differently and is no witness."""
    return all(row.identical == 1.0 for row in rows if row.mode != TRANSFORMERS)


def label(mode: str) -> str:
    """For people."""
    if mode == PIPELINE:
        return "adaptive"
    return f"{mode} tokens" if mode.isdecimal() else mode


HEADS = (
    *("block", "n", "ms/token", "tokens/s", "× plain", "quartiles", "acceptance", "τ", "tokens/step"),
    *("identical", "log-likelihood"),
)


def markdown(rows: Sequence[TableRow], facts: Mapping[str, str]) -> str:
    """The page: what was measured on what, all tasks together, each task, and what the columns mean."""
    head = ["task", *HEADS]
    whole = [_cells(row) for row in rows if row.task == ALL]
    tasks = dict.fromkeys(row.task for row in rows if row.task != ALL)
    parts = [[row.task, *_cells(row)] for task in tasks for row in rows if row.task == task]
    means = ", ".join(f"{label(mode)} {value:.2f}" for mode, value in mean_tau(rows).items())
    sent = ", ".join(
        f"{label(row.mode)} {row.feature_bytes:,.0f}"
        for row in rows
        if row.task == ALL and row.feature_bytes is not None
    )
    lines = [
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        *_table(HEADS, whole),
        "",
        *_table(head, parts),
        "",
        *([f"τ, mean over tasks: {means}.", ""] if means else []),
        *([f"Bytes of hidden states between services per accepted draft token: {sent}.", ""] if sent else []),
        *_LEGEND,
    ]
    return "\n".join(lines) + "\n"


_LEGEND = (
    "ms/token: median time between two tokens after the first one. tokens/s: median over requests, the time of the",
    "prompt included. × plain: median of the ratios of tokens/s, paired by prompt. acceptance: accepted over checked",
    "draft tokens. τ: tokens per step with drafts, the target's own included; tokens/step counts steps without drafts,",
    "too. identical: outputs that equal plain decoding's. log-likelihood: mean log-probability of an output token",
    "under the target.",
)


def _cells(row: TableRow) -> list[str]:
    return [
        label(row.mode),
        str(row.num),
        _number(row.ms_per_token, ".2f"),
        f"{row.tokens_per_s:.1f}",
        f"{row.speedup:.2f}",
        f"{row.low:.2f}–{row.high:.2f}",
        NOTHING if row.acceptance_rate is None else f"{row.acceptance_rate * 100:.1f} %",
        _number(row.tau, ".2f"),
        _number(row.tokens_per_step, ".2f"),
        _share(row.identical),
        _number(row.log_likelihood, ".3f"),
    ]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _share(value: float) -> str:
    """Never 100 % unless it is."""
    return "100 %" if value == 1.0 else f"{min(value * 100, 99.9):.1f} %"


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *cells]
    return ["| " + " | ".join(line) + " |" for line in lines]
