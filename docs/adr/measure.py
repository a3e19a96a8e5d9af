"""The measurements in the decisions here: ``python docs/adr/measure.py attention|packed|step|spans|noise``."""

from __future__ import annotations

import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from paceline.core.types import SamplingParams
from paceline.models.attend import KeyValues, Places, attend
from paceline.models.loading import load, prepare
from paceline.models.noise import gumbel_argmax
from paceline.models.packed import PackedLinear
from paceline.models.runner import Feed, ModelRunner
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


def attend_all(q: torch.Tensor, caches: list[KeyValues], places: Places, out: torch.Tensor) -> None:
    """The same with our kernel."""
    for cache in caches:
        attend(q, cache, places, 0, D**-0.5, out)


def attention() -> None:
    """ADR 21."""
    caches = [KeyValues(1, CAPACITY, (KV, D), torch.bfloat16) for _ in range(LAYERS)]
    plain = [(torch.randn(KV, CAPACITY, D).bfloat16(), torch.randn(KV, CAPACITY, D).bfloat16()) for _ in caches]
    for cache, (keys, values) in zip(caches, plain, strict=True):
        cache.put_rows(0, 0, keys.transpose(0, 1), values.transpose(0, 1))
    for rows in (1, 4, 8):
        for end in (64, 256, 1024):
            q = torch.randn(rows, HEADS, D).bfloat16()
            scaled = (q / D**0.5).transpose(0, 1).contiguous()
            places = Places(np.zeros(rows, np.int64), np.arange(end - rows, end))
            hidden = torch.arange(end)[None] > torch.arange(end - rows, end)[:, None]
            bias, out = torch.zeros(rows, end).masked_fill_(hidden, -torch.inf), torch.empty(rows, HEADS * D).bfloat16()
            ours = milliseconds(partial(attend_all, q, caches, places, out))
            theirs = milliseconds(partial(bmm_all, scaled, [(k[:, :end], v[:, :end]) for k, v in plain], bias))
            say(f"{rows} rows, KV {end:4}: tiles {ours:5.2f} ms, bmm {theirs:5.2f} ms")


def run_all(linears: Sequence[Callable[[torch.Tensor], torch.Tensor]], xs: list[torch.Tensor]) -> None:
    """The linear layers of one layer."""
    for linear, x in zip(linears, xs, strict=True):
        linear(x)


def in_onednn(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A linear layer with weights that were packed once."""
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def packed() -> None:
    """ADR 21."""
    plain = [nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16) for inputs, outputs in LINEARS]
    theirs = [torch.ops.mkldnn._reorder_linear_weight(one.weight.detach(), 8) for one in plain]
    ours = [PackedLinear(one.weight) for one in plain]
    onednn = [partial(in_onednn, one) for one in theirs]
    for rows in (1, 4, 8, 16, 32, 64, 256):
        xs = [torch.randn(rows, one.in_features).bfloat16() for one in plain]
        ways = {
            "plain": milliseconds(partial(run_all, plain, xs)),
            "oneDNN, packed": milliseconds(partial(run_all, onednn, xs)),
            "tiles": milliseconds(partial(run_all, ours, xs)),
        }
        say(f"{rows:3} rows: " + ", ".join(f"{name} {LAYERS * ms:.1f} ms" for name, ms in ways.items()))


def step() -> None:
    """ADR 21 and 24: whole steps of the model that the package brings."""
    loaded = [load(prepare("smollm2"), torch.bfloat16, max_context=2048) for _ in range(2)]
    runners = {"16 bits": ModelRunner(loaded[0], 2), "8 bits": ModelRunner(loaded[1], 2, quantized=True)}
    tokens = np.random.default_rng(0).integers(loaded[0].vocab_size, size=1100).tolist()
    for end in (200, 900):
        for name, runner in runners.items():
            runner.open("s")
            runner.logits([Feed("s", 0, tokens[:end], 0)])
            taken = [
                f"{rows} rows {milliseconds(partial(runner.logits, [Feed('s', end, tokens[:rows], rows)])):.1f} ms"
                for rows in (1, 2, 4, 8, 12, 16, 32)
            ]
            runner.close("s")
            say(f"{name}, KV {end}: {', '.join(taken)}")


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
        {"attention": attention, "packed": packed, "step": step, "spans": spans, "noise": noise}[sys.argv[1]]()
