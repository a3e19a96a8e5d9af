"""Proves at start, on this machine, that logits don't depend on how rows are grouped; picks the padding that it takes.

Compared with ``torch.equal``: one-row decoding, verification of several rows, prefill in chunks, other slots and
neighbours in the batch, beside a draft. What fails is said plainly; nothing is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paceline.models.runner import Feed, ModelRunner

PADDINGS = (1, 2, 4, 8)
_LENGTH = 72
_DECODED = 6


@dataclass(frozen=True, slots=True)
class Invariance:
    """What the probe found."""

    is_exact: bool
    min_rows: int
    num_checks: int
    detail: str


def settle(runner: ModelRunner) -> Invariance:
    """Set the runner's padding to the smallest that makes every comparison equal; the largest when none does."""
    detail = ""
    for padding in PADDINGS:
        runner.min_rows = padding
        checks, detail = 0, ""
        for name, is_equal in _checks(runner):
            checks += 1
            if not is_equal:
                detail = name
                break
        if not detail:
            return Invariance(True, padding, checks, f"padded to {padding} rows: all {checks} comparisons equal")
    return Invariance(False, runner.min_rows, len(PADDINGS), f"differs even with {runner.min_rows} rows: {detail}")


def _checks(runner: ModelRunner) -> Iterator[tuple[str, bool]]:
    tokens = np.random.default_rng(0).integers(runner.loaded.vocab_size, size=_LENGTH).tolist()
    length = min(_LENGTH, runner.loaded.max_context)
    decoded = min(_DECODED, length - 1)
    tokens, head = tokens[:length], length - decoded
    whole = _run(runner, tokens, [length])
    yield "again", torch.equal(_run(runner, tokens, [length]), whole)
    yield "one row", torch.equal(_run(runner, tokens, [head] + [1] * decoded), whole)
    yield "three rows", torch.equal(_run(runner, tokens, [head, *_chunks(decoded, 3)]), whole)
    yield "chunks of 9", torch.equal(_run(runner, tokens, _chunks(length, 9)), whole)
    yield "chunks of 33", torch.equal(_run(runner, tokens, _chunks(length, 33)), whole)
    yield "among others", torch.equal(_run_among(runner, tokens, head), whole[head:])
    if runner.max_beside:
        yield "beside others", torch.equal(_run_beside(runner, tokens, head), whole[head:])


def _chunks(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


def _run(runner: ModelRunner, tokens: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Logits [len(tokens), vocab] when fed in pieces of these sizes."""
    runner.open("probe")
    pieces, start = [], 0
    for size in sizes:
        pieces += runner.logits([Feed("probe", start, tokens[start : start + size], size)])
        start += size
    runner.close("probe")
    return torch.cat(pieces)


def _run_among(runner: ModelRunner, tokens: Sequence[int], head: int) -> torch.Tensor:
    """The last rows, one by one, in another slot behind a neighbour of five rows."""
    if runner.slots.spare < 2:
        return _run(runner, tokens, [head] + [1] * (len(tokens) - head))[head:]
    runner.open("neighbour")
    runner.open("probe")
    runner.logits([Feed("probe", 0, tokens[:head], 0)])
    pieces = []
    for position in range(head, len(tokens)):
        feeds = [Feed("neighbour", 0, tokens[:5], 1), Feed("probe", position, tokens[position : position + 1], 1)]
        pieces.append(runner.logits(feeds)[1])
    runner.close("neighbour")
    runner.close("probe")
    return torch.cat(pieces)


def _run_beside(runner: ModelRunner, tokens: Sequence[int], head: int) -> torch.Tensor:
    """The last rows, each beside a draft that is wrong there, and adopted."""
    runner.open("probe")
    runner.logits([Feed("probe", 0, tokens[:head], 0)])
    pieces = []
    for position in range(head, len(tokens)):
        draft = [(token + 1) % runner.loaded.vocab_size for token in tokens[position:]]
        feed = Feed("probe", position, draft, 0, [(position, tokens[position])])
        pieces += runner.logits([feed])
        runner.adopt("probe", position, tokens[position])
    runner.close("probe")
    return torch.cat(pieces)
