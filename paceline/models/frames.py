"""What a step leaves for drafters, in frames: hidden states, keys and values; committed rows, bfloat16."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from paceline.core.types import FeatureFrame, KvFrame, StepItem
from paceline.models.view import TargetView
from paceline.speculation.features import BF16_BYTES, MAX_FRAME_BYTES


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
        frames.append(FeatureFrame(end - keep, keep, _bytes_of(kept)))
    return tuple(frames)


def make_kv_frames(item: StepItem, view: TargetView) -> tuple[KvFrame, ...]:
    """What the item wishes of what is cached now, once its rejected drafts are cut off; each fits a message."""
    end = view.length(item.session)
    frames = []
    for wish in item.kv:
        rows = view.rows(wish.kind, item.session, min(wish.start, end), end)
        pieces = rows.split(max(1, MAX_FRAME_BYTES // (rows.shape[1] * BF16_BYTES)))
        start = wish.start
        for piece in pieces if len(rows) else ():
            frames.append(KvFrame(item.session, wish.kind, FeatureFrame(start, len(piece), _bytes_of(piece))))
            start += len(piece)
    return tuple(frames)


def _bytes_of(rows: torch.Tensor) -> bytes:
    return rows.contiguous().view(torch.uint8).numpy().tobytes()


def rows_of(frame: FeatureFrame) -> torch.Tensor:
    """[num_rows, taps * hidden] in bfloat16: the inverse, for drafters that compute with torch."""
    return torch.frombuffer(bytearray(frame.bf16), dtype=torch.bfloat16).view(frame.num_rows, -1)
