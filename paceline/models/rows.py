"""The ragged rows of one step, laid out for a model; padded where the invariance plan asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paceline.core.errors import invariant
from paceline.models.attend import Beside, Places

LAST = -1
"""The normalised output of the last layer."""


@dataclass(frozen=True, slots=True)
class Output:
    """Of a forward pass."""

    logits: torch.Tensor
    """[len(rows.keep), vocab], in the model's dtype."""
    features: torch.Tensor | None = None
    """[len(rows), len(taps) * hidden], in the order of the taps; None without taps."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one slot."""

    slot: int
    start: int
    tokens: Sequence[int]
    keep: int
    """Logits are wanted of this many last rows."""
    others: Sequence[tuple[int, int]] = ()
    """(position, token): what may stand at positions of this segment instead. Logits are wanted of all."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a forward pass gets."""

    token_ids: np.ndarray[tuple[int], np.dtype[np.int64]]
    """[rows]"""
    places: Places
    keep: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Indices of the rows whose logits are wanted."""
    taps: tuple[int, ...] = ()
    """Hidden states wanted of every row: after this many layers, or ``LAST`` for what the output layer sees."""

    def __len__(self) -> int:
        return len(self.token_ids)


def lay_out(
    segments: Sequence[Segment], *, spare: int, min_rows: int, capacity: int = 0, taps: tuple[int, ...] = ()
) -> Rows:
    """Rows of all segments in order, padding, then what may stand beside them, again in order of the segments.

    Padding lives at the front of the spare slot, the homes of what stands beside follow there, up to ``capacity``.
    """
    tokens: list[int] = []
    slots: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    for segment in segments:
        count = len(segment.tokens)
        tokens += segment.tokens
        slots += [segment.slot] * count
        positions += range(segment.start, segment.start + count)
        keep += range(len(tokens) - segment.keep, len(tokens))
    num_beside = sum(len(segment.others) for segment in segments)
    missing = max(0, min_rows - len(tokens) - num_beside)
    tokens += [0] * missing
    slots += [spare] * missing
    positions += range(missing)
    if not num_beside:
        places = Places(np.array(slots, np.int64), np.array(positions, np.int64))
        return Rows(np.array(tokens, np.int64), places, _at_least(keep, min_rows, len(tokens)), taps)
    invariant(missing + num_beside <= capacity, "there is a home for every row that stands beside others")
    keep += range(len(tokens), len(tokens) + num_beside)
    tokens += [token for segment in segments for _, token in segment.others]
    slots += [segment.slot for segment in segments for _ in segment.others]
    positions += [position for segment in segments for position, _ in segment.others]
    places = Places(np.array(slots, np.int64), np.array(positions, np.int64), _homes(segments, spare, missing))
    return Rows(np.array(tokens, np.int64), places, _at_least(keep, min_rows, len(tokens)), taps)


def _homes(segments: Sequence[Segment], spare: int, first: int) -> Beside:
    counts = [len(segment.others) for segment in segments if segment.others]
    total = sum(counts)
    firsts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Beside(np.full(total, spare, np.int64), np.arange(first, first + total), firsts)


def _at_least(keep: list[int], minimum: int, num_rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The output layer is a linear layer too: it is never given fewer rows than the plan's minimum."""
    if not 0 < len(keep) < minimum:
        return np.array(keep, np.int64)
    others = [row for row in range(num_rows) if row not in keep]
    return np.array(keep + others[: minimum - len(keep)], np.int64)
