"""What steps of a verifier and calls of a drafter cost on this machine, and the line through these times.

``t = base + row * rows + kv * (cached positions that the rows read)`` for steps, ``base + token * tokens`` for calls:
what the synthetic parties take, so that a machine that was measured once can be emulated anywhere.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paceline.core.ports import Clock, Drafter, VerifierBackend
from paceline.core.types import DraftJob, FeatureFrame, SamplingParams, SessionSpec, StepItem, StopRules, Tokens

CHUNK = 128
"""Rows of a prefill step."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a step: that many sessions with a context of that many tokens and that many rows each."""

    rows: int
    context: int
    sessions: int = 1

    @property
    def total_rows(self) -> int:
        """Of all sessions."""
        return self.rows * self.sessions

    @property
    def total_kv(self) -> int:
        """Cached positions read, over all rows."""
        return self.total_rows * self.context


@dataclass(slots=True)
class Timing:
    """Of one shape."""

    shape: Shape
    seconds: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Of its steps."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class StepLine:
    """Seconds of a step."""

    base_s: float
    row_s: float
    kv_s: float

    def seconds(self, shape: Shape) -> float:
        """By the line."""
        return self.base_s + self.row_s * shape.total_rows + self.kv_s * shape.total_kv


@dataclass(frozen=True, slots=True)
class CallLine:
    """Seconds of a drafter's call for one session."""

    base_s: float
    token_s: float


async def measure_steps(
    backend: VerifierBackend, clock: Clock, shapes: Sequence[Shape], repeats: int, tell: Callable[[int], None]
) -> list[Timing]:
    """All shapes in turns, in an order that is shuffled anew every time, after one round that is not counted."""
    rng, timings = random.Random(0), [Timing(shape) for shape in shapes]  # noqa: S311
    for context in sorted({shape.context for shape in shapes}):
        own = [timing for timing in timings if timing.shape.context == context]
        names = [f"profile {index}" for index in range(max(timing.shape.sessions for timing in own))]
        await _fill(backend, names, context)
        for turn in range(repeats + 1):
            for timing in rng.sample(own, len(own)):
                seconds = await _step(backend, clock, names, timing.shape)
                if turn:
                    timing.seconds.append(seconds)
                tell(1)
        for name in names:
            backend.close(name)
    return timings


async def _fill(backend: VerifierBackend, names: Sequence[str], context: int) -> None:
    tokens = _tokens(backend.info.vocab_size, context + 1)
    for name in names:
        backend.open(SessionSpec(name, tokens, len(tokens), SamplingParams(), StopRules(max_tokens=1)))
        for start in range(0, context, CHUNK):
            piece = tokens[start : min(start + CHUNK, context)]
            await backend.step([StepItem(name, start, piece, sample=False)])


async def _step(backend: VerifierBackend, clock: Clock, names: Sequence[str], shape: Shape) -> float:
    tokens = _tokens(backend.info.vocab_size, shape.context + shape.rows)[shape.context :]
    items = [StepItem(name, shape.context, tokens, num_draft=shape.rows - 1) for name in names[: shape.sessions]]
    started = clock.monotonic()
    await backend.step(items)
    return clock.monotonic() - started


def measure_calls(drafter: Drafter, clock: Clock, lengths: Sequence[int], repeats: int) -> dict[int, list[float]]:
    """Seconds by the number of tokens asked for; to be called in the thread that computes."""
    rng = random.Random(0)  # noqa: S311
    out: dict[int, list[float]] = {length: [] for length in lengths}
    size = drafter.info.vocab_size or 256
    context = _tokens(size, 64)
    row = bytes(drafter.info.needs.feature_bytes)
    drafter.open(SessionSpec("profile", context, len(context), SamplingParams(), StopRules(max_tokens=4096)))
    try:
        for turn in range(repeats + 1):
            for length in rng.sample(lengths, len(lengths)):
                context = (*context, (len(context) * 7) % size)
                frames = (FeatureFrame(len(context) - 2, 1, row),) if row else ()
                started = clock.monotonic()
                drafter.extend([DraftJob("profile", context, len(context), length, frames)])
                if turn:
                    out[length].append(clock.monotonic() - started)
    finally:
        drafter.close("profile")
    return out


def _tokens(vocab_size: int, count: int) -> Tokens:
    return tuple(int(token) for token in np.random.default_rng(0).integers(vocab_size, size=count))


def fit_steps(timings: Sequence[Timing]) -> StepLine:
    """The line with the least relative errors; no part of it is negative."""
    shapes = [timing.shape for timing in timings]
    columns = np.array([[1.0, shape.total_rows, shape.total_kv] for shape in shapes])
    return StepLine(*_fit(columns, [timing.median_s for timing in timings]))


def fit_calls(calls: dict[int, list[float]]) -> CallLine:
    """As ``fit_steps``."""
    columns = np.array([[1.0, length] for length in calls])
    return CallLine(*_fit(columns, [statistics.median(seconds) for seconds in calls.values()]))


def _fit(columns: NDArray[np.float64], seconds: Sequence[float]) -> list[float]:
    """Least squares of relative errors, over the columns that don't come out negative."""
    kept = list(range(columns.shape[1]))
    weighted = columns / np.array(seconds)[:, None]
    while True:
        found = np.linalg.lstsq(weighted[:, kept], np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all() or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found * np.abs(weighted[:, kept]).mean(0))))
    out = [0.0] * columns.shape[1]
    for place, value in zip(kept, found, strict=True):
        out[place] = max(0.0, float(value))
    return out


def worst_error(line: StepLine, timings: Sequence[Timing]) -> float:
    """Largest relative error of the line."""
    return max(abs(line.seconds(one.shape) / one.median_s - 1.0) for one in timings)
