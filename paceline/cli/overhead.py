"""``paceline overhead``: what the runtime, the wire, the coordinator and the store add to a verifier step.

Steps are synthetic, so that their own time is known: the same back end is timed alone in this process and behind the
whole stack, in turns.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from paceline.cli.machine import provenance
from paceline.cli.running import run, say
from paceline.cli.stack import StackOptions, running_stack
from paceline.client.aio import Client, read_trace
from paceline.config.settings import SyntheticSettings, VerifierSettings
from paceline.core.requests import Chunk, DraftMode, GenerateRequest
from paceline.core.types import SamplingParams, SessionSpec, StepItem, StopRules
from paceline.telemetry.clock import SystemClock
from paceline.telemetry.names import Span
from paceline.verifiers import create_backend

PROMPT = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of times in milliseconds."""

    p50: float
    p99: float
    n: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """What was measured."""

    step_ms: float
    engine: Spread
    """A step of the back end alone."""
    stack: Spread
    """Between two steps' tokens at the client of the whole stack."""
    added_p50: float
    """``stack`` over ``engine``: what a token costs more."""
    wire: Spread
    """From the end of a step to its commit at the coordinator; the next step does not wait for it."""
    store: Spread
    """Compare-and-set; the next step does not wait for it either."""


def overhead(
    step_ms: float = typer.Option(10.0, min=0.1, help="Time of a synthetic verifier step."),
    tokens: int = typer.Option(200, min=10, help="Steps per round."),
    rounds: int = typer.Option(3, min=1, help="Times that both are measured, in turns."),
    out: Path = typer.Option(None, help="Write the result here as JSON."),
    json_: bool = typer.Option(False, "--json", help="The result as JSON."),
) -> None:
    """Measure the latency that the services add to each verifier step, on this machine, without a model."""
    result = run(_measure(step_ms, tokens, rounds), as_json=json_)
    if out is not None:
        out.write_text(json.dumps({**provenance(), **asdict(result)}, indent=1), "utf-8")
    if json_:
        typer.echo(json.dumps(asdict(result)))
        return
    for name, spread in (("engine alone", result.engine), ("whole stack", result.stack)):
        typer.echo(f"{name:<14} p50 {spread.p50:7.3f} ms   p99 {spread.p99:7.3f} ms   {spread.n} steps")
    typer.echo(f"added          p50 {result.added_p50:7.3f} ms per step")
    typer.echo(f"  of a step's tokens: wire p50 {result.wire.p50:.3f} ms, store p50 {result.store.p50:.3f} ms")


async def _measure(step_ms: float, tokens: int, rounds: int) -> Overhead:
    setting = f"synthetic.step_base_s={step_ms / 1e3}"
    options = StackOptions(backend="synthetic", drafter="synthetic", port=0, settings={"verifier": (setting,)})
    engine: list[float] = []
    stack: list[float] = []
    spans: dict[str, list[float]] = {Span.WIRE: [], Span.STORE: []}
    async with running_stack(options, say) as running, Client(running.grpc) as client:
        await _through_stack(client, tokens, {})
        for _ in range(rounds):
            engine += await _alone(step_ms / 1e3, tokens)
            stack += await _through_stack(client, tokens, spans)
    return Overhead(
        step_ms,
        _spread(engine),
        _spread(stack),
        _spread(stack).p50 - _spread(engine).p50,
        _spread(spans[Span.WIRE]),
        _spread(spans[Span.STORE]),
    )


def _spread(times: Sequence[float]) -> Spread:
    return Spread(statistics.median(times), statistics.quantiles(times, n=100, method="inclusive")[98], len(times))


async def _alone(step_s: float, tokens: int) -> list[float]:
    """Milliseconds of each plain step."""
    settings = VerifierSettings(backend="synthetic", synthetic=SyntheticSettings(step_base_s=step_s))
    backend = create_backend(settings, SystemClock())
    context = list(PROMPT)
    backend.open(SessionSpec("alone", PROMPT, len(PROMPT), SamplingParams(), StopRules(tokens)))
    times, cached = [], 0
    for _ in range(tokens):
        started = time.perf_counter()
        result = await backend.step([StepItem("alone", cached, tuple(context[cached:]))])
        times.append((time.perf_counter() - started) * 1e3)
        cached = len(context)
        context += result.outcomes[0].token_ids
    return times


async def _through_stack(client: Client, tokens: int, spans: dict[str, list[float]]) -> list[float]:
    """Milliseconds between the tokens of one plain request; the durations of its ``spans`` are added to them."""
    request = GenerateRequest(PROMPT, max_tokens=tokens, mode=DraftMode.PLAIN, request_id=f"overhead-{time.time_ns()}")
    times, last = [], 0.0
    async for event in client.generate(request):
        now = time.perf_counter()
        if isinstance(event, Chunk):
            if last:
                times += [(now - last) * 1e3 / len(event.token_ids)] * len(event.token_ids)
            last = now
    for span in await read_trace(client.address, request.request_id):
        if span.name in spans:
            spans[span.name].append((span.end_ns - span.start_ns) / 1e6)
    return times
