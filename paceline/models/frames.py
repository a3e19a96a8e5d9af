"""Hidden states of a step as the frames that drafters get: chosen columns, committed rows, bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from paceline.core.types import FeatureFrame, StepItem


def union_of_taps(items: Iterable[StepItem]) -> tuple[int, ...]:
    """All hidden states that anybody wants of this step."""
    return tuple(sorted({tap for item in items for wish in item.taps for tap in wish.taps}))


def make_frames(
    item: StepItem, rows: Sequence[int], features: torch.Tensor | None, taps: Sequence[int]
) -> tuple[FeatureFrame, ...]:
    """One frame per wish of the item, of its last committed rows; ``features`` is [item's rows, len(taps) * hidden].

    ``rows``: indices of those that turned out to be committed, consecutive in position. Others hold what the target
    thought after a token that was never said: they are cut off here.
    """
    if features is None:
        return ()
    by_tap = dict(zip(taps, features[list(rows)].chunk(len(taps), 1), strict=True))
    frames, end = [], item.start + len(rows)
    for wish in item.taps:
        keep = min(max(wish.history, 1), len(rows))
        kept = torch.cat([by_tap[tap][len(rows) - keep :] for tap in wish.taps], 1).to(torch.bfloat16)
        frames.append(FeatureFrame(end - keep, keep, kept.view(torch.uint8).numpy().tobytes()))
    return tuple(frames)


def rows_of(frame: FeatureFrame) -> torch.Tensor:
    """[num_rows, taps * hidden] in bfloat16: the inverse, for drafters that compute with torch."""
    return torch.frombuffer(bytearray(frame.bf16), dtype=torch.bfloat16).view(frame.num_rows, -1)
