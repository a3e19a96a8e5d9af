"""The measurements in the decisions of this folder: ``python docs/adr/measure.py attention|packed|spans|noise``."""

from __future__ import annotations

import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paceline.core.types import SamplingParams
from paceline.models.attend import KeyValues, Places, attend
from paceline.models.noise import gumbel_argmax
from paceline.models.packed import PackedLinear
from paceline.models.threads import use_threads
from paceline.sampling.accept import sample
from paceline.sampling.processors import process
from paceline.telemetry.names import Attribute, Span
from paceline.telemetry.spans import Tracer, child_of, new_trace

LAYERS, HEADS, KV, D, CAPACITY = 30, 9, 3, 64, 2048
LINEARS = ((576, 960), (576, 576), (576, 3072), (1536, 576))
"""(in, out) of the linear layers of one layer of SmolLM2-135M."""


def say(text: str) -> None:
    """One line."""
    sys.stdout.write(text + "\n")


def milliseconds(work: Callable[[], object], times: int = 60) -> float:
    """Median time of a call, the first ones left out."""
    taken = [timeit.timeit(work, number=1) for _ in range(times)]
    return statistics.median(taken[times // 6 :]) * 1e3


def bmm(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """q [heads, rows, d], scaled; k, v [kv, end, d]; bias [rows, end]."""
    scores = torch.bmm(q.reshape(KV, -1, D), k.transpose(1, 2)).view(KV, HEADS // KV, -1, k.shape[1]).float() + bias
    weights = torch.softmax(scores, -1).to(torch.bfloat16)
    return torch.bmm(weights.view(KV, -1, k.shape[1]), v).view(HEADS, -1, D)


def bmm_all(q: torch.Tensor, caches: list[tuple[torch.Tensor, torch.Tensor]], bias: torch.Tensor) -> None:
    """All layers of a step."""
    for k, v in caches:
        bmm(q, k, v, bias)


def attend_all(q: NDArray[np.float32], caches: list[KeyValues], places: Places, out: torch.Tensor) -> None:
    """The same with our kernel."""
    for cache in caches:
        attend(q, cache, places, 0, out)


def attention() -> None:
    """ADR 11."""
    caches = [KeyValues(1, CAPACITY, (KV, D), torch.bfloat16) for _ in range(LAYERS)]
    for cache in caches:
        cache.keys.normal_()
        cache.values.normal_()
    plain = [(one.keys[0].transpose(1, 2).contiguous(), one.values[0].contiguous()) for one in caches]
    for rows in (1, 4, 8):
        for end in (64, 256, 1024):
            q = torch.randn(rows, HEADS, D) / 8
            bf16, f32 = q.bfloat16().transpose(0, 1).contiguous(), q.numpy()
            places = Places(np.zeros(rows, np.int64), np.arange(end - rows, end))
            hidden = torch.arange(end)[None] > torch.arange(end - rows, end)[:, None]
            bias, out = torch.zeros(rows, end).masked_fill_(hidden, -torch.inf), torch.empty(rows, HEADS * D).bfloat16()
            ours = milliseconds(partial(attend_all, f32, caches, places, out))
            theirs = milliseconds(partial(bmm_all, bf16, [(k[:, :end], v[:, :end]) for k, v in plain], bias))
            say(f"{rows} rows, KV {end:4}: row kernel {ours:5.2f} ms, bmm {theirs:5.2f} ms")


def run_all(linears: Sequence[Callable[[torch.Tensor], torch.Tensor]], xs: list[torch.Tensor]) -> None:
    """The linear layers of one layer."""
    for linear, x in zip(linears, xs, strict=True):
        linear(x)


def packed() -> None:
    """ADR 12."""
    plain = [nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16) for inputs, outputs in LINEARS]
    ours = [PackedLinear(one.weight) for one in plain]
    for rows in (1, 4, 8, 16, 32, 64, 256):
        xs = [torch.randn(rows, one.in_features).bfloat16() for one in plain]
        ways = {
            "plain": milliseconds(partial(run_all, plain, xs)),
            "packed": milliseconds(partial(run_all, ours, xs)),
            "packed, one call": milliseconds(partial(run_all, [one._block for one in ours], xs)),
        }
        say(f"{rows:3} rows: " + ", ".join(f"{name} {LAYERS * ms:.1f} ms" for name, ms in ways.items()))
    for one in ours:
        x = torch.randn(256, one.in_features).bfloat16()
        alone = torch.cat([one._block(rows) for rows in x.split(8)])
        other = [rows for rows in range(1, 257) if not torch.equal(one._block(x[:rows]), alone[:rows])]
        say(f"{one.in_features} to {one.out_features}: other bits than in blocks of 8 rows: {other or 'never'}")


def spans() -> None:
    """ADR 13."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    ours, parent, attributes = Tracer("measure"), child_of(new_trace()), {Attribute.POSITION: 7, Attribute.TOKENS: 3}
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=8192))
    theirs = provider.get_tracer("measure")
    ways = {
        "ring": lambda: ours.record(Span.STEP, parent, (1, 2), attributes),
        "SDK": lambda: theirs.start_span(Span.STEP, attributes=attributes, start_time=1).end(2),
    }
    for name, way in ways.items():
        say(f"{name}: {min(timeit.repeat(way, number=20_000, repeat=5)) / 20_000 * 1e6:.1f} µs per span")
    provider.shutdown()


def noise() -> None:
    """ADR 15."""
    logits = np.random.default_rng(0).normal(0, 3, 49152).astype(np.float32)
    for params in (
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.8, top_p=0.95),
        SamplingParams(temperature=0.8, top_k=40),
    ):
        scores = process(logits, params, (), 0)
        times = (
            milliseconds(partial(process, logits, params, (), 0)),
            milliseconds(partial(gumbel_argmax, scores, 7, 9)),
            milliseconds(partial(sample, scores, 7, 9, greedy=False)),
        )
        left = int((scores > -np.inf).sum())
        say(f"{left} tokens left: processors {times[0]:.2f} ms, noise {times[1]:.2f} ms, in numpy {times[2]:.2f} ms")


if __name__ == "__main__":
    use_threads(0)
    torch.manual_seed(0)
    with torch.inference_mode():
        {"attention": attention, "packed": packed, "spans": spans, "noise": noise}[sys.argv[1]]()
