"""What the turns say: a row per contender and number of streams, and who is ahead."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.cli.peers.measuring import OURS, Absent, Contender, Turn
from paceline.core.types import Tokens


@dataclass(frozen=True, slots=True)
class Figure:
    """A contender with so many prompts at a time."""

    contender: str
    engine: str
    streams: int
    num: int
    """Groups measured."""
    rate: float
    """Median tokens/s."""
    ratio: float
    """Median of the paired ratios to the first mode of ours."""
    low: float
    high: float
    """Quartiles of the paired ratios."""
    tokens_per_step: float | None
    """None where the engine doesn't say."""
    identical: float | None
    """Share of outputs that are the same engine's plain decoding's, one prompt at a time; None without such."""
    weights: str
    bits_per_weight: float | None


@dataclass(frozen=True, slots=True)
class Lead:
    """The fastest of ours against the fastest of theirs, by median tokens/s."""

    streams: int
    ours: str
    theirs: str
    ratio: float
    """Of the medians."""
    paired: float
    """Median of the ratios group by group."""


def figures(contenders: Sequence[Contender], turns: Sequence[Turn]) -> list[Figure]:
    """In the contenders' order, by number of streams."""
    baseline = next(one.name for one in contenders if one.engine == OURS)
    references = {engine: _outputs(contenders, turns, engine) for engine in {one.engine for one in contenders}}
    levels = list(dict.fromkeys(one.streams for one in turns))
    rows = []
    for level in levels:
        here = [one for one in turns if one.streams == level]
        base = {(one.group, one.round): one.rate for one in here if one.contender == baseline}
        for contender in contenders:
            own = [one for one in here if one.contender == contender.name]
            if own:
                rows.append(_figure(contender, own, base, references[contender.engine]))
    return rows


def _outputs(contenders: Sequence[Contender], turns: Sequence[Turn], engine: str) -> dict[str, Tokens]:
    """Of an engine's plain decoding by prompt: the first time, with the fewest at a time."""
    plain = {one.name for one in contenders if one.engine == engine and one.is_plain}
    found: dict[str, Tokens] = {}
    for turn in sorted((one for one in turns if one.contender in plain), key=lambda one: (one.streams, one.round)):
        for prompt, output in zip(turn.prompts, turn.outputs, strict=True):
            found.setdefault(prompt, output)
    return found


def _figure(
    contender: Contender, own: Sequence[Turn], base: Mapping[tuple[int, int], float], reference: Mapping[str, Tokens]
) -> Figure:
    ratios = [one.rate / base[one.group, one.round] for one in own]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    known = [one.steps for one in own if one.steps]
    same = [
        output == reference[prompt]
        for turn in own
        for prompt, output in zip(turn.prompts, turn.outputs, strict=True)
        if prompt in reference
    ]
    about = contender.about
    return Figure(
        contender.name,
        contender.engine,
        own[0].streams,
        len(own),
        statistics.median(one.rate for one in own),
        statistics.median(ratios),
        quartiles[0],
        quartiles[2],
        sum(one.num_tokens for one in own) / sum(known) if len(known) == len(own) else None,
        statistics.fmean(same) if same else None,
        about.weights if about else "",
        about.bits_per_weight if about else None,
    )


def leads(rows: Sequence[Figure], turns: Sequence[Turn]) -> list[Lead]:
    """One per number of streams at which both sides were measured."""
    found = []
    for level in dict.fromkeys(one.streams for one in rows):
        sides = [
            [one for one in rows if one.streams == level and (one.engine == OURS) == is_ours] for is_ours in (1, 0)
        ]
        if not all(sides):
            continue
        mine, other = (max(side, key=lambda one: one.rate) for side in sides)
        rates = {(one.contender, one.group, one.round): one.rate for one in turns if one.streams == level}
        paired = [
            rate / rates[other.contender, group, number]
            for (name, group, number), rate in rates.items()
            if name == mine.contender
        ]
        ratio = mine.rate / other.rate
        found.append(Lead(level, mine.contender, other.contender, ratio, statistics.median(paired)))
    return found


def page(rows: Sequence[Figure], ahead: Sequence[Lead], absent: Sequence[Absent]) -> str:
    """As a Markdown table, which reads well in a terminal, too."""
    lines = [
        "| who | streams | n | tokens/s | × first | quartiles | tokens/step | as own plain | weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(one) for one in rows),
        "",
    ]
    lines += [
        f"{one.streams} at a time: {one.ours} is {one.ratio:.2f} × {one.theirs} (group by group: {one.paired:.2f})."
        for one in ahead
    ]
    lines += [f"without figures: {one.name}: {one.reason}" for one in absent]
    return "\n".join(lines) + "\n"


def _line(one: Figure) -> str:
    steps = "–" if one.tokens_per_step is None else f"{one.tokens_per_step:.2f}"
    same = "–" if one.identical is None else f"{one.identical:.0%}"
    bits = "" if one.bits_per_weight is None else f", {one.bits_per_weight:.3g} bits"
    cells = [
        one.contender,
        one.streams,
        one.num,
        f"{one.rate:.1f}",
        f"{one.ratio:.2f}",
        f"{one.low:.2f}–{one.high:.2f}",
    ]
    return "| " + " | ".join(map(str, [*cells, steps, same, one.weights + bits])) + " |"
