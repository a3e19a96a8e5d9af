"""``paceline train``: makes drafters for a target, from prompts to an exported directory."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from paceline.cli.machine import command
from paceline.cli.running import fail, say
from paceline.core.errors import InvalidRequest, PacelineError
from paceline.text.resolve import PACKAGED
from paceline.training import KINDS

if TYPE_CHECKING:
    from paceline.training.distil import Made
    from paceline.training.loop import Progress
    from paceline.training.run import Listener
    from paceline.training.subject import Trained

_KINDS = "; ".join(f"{name}: {what}" for name, what in KINDS.items()) + "."
_SMOKE = "A trial of a minute with a made-up target; fails unless lookup is beaten. Of the options only --seed counts."
ResultT = TypeVar("ResultT")
EVERY_S = 2.0
"""A line of progress at most this often."""


def train(
    kind: str = typer.Argument(next(iter(KINDS)), help=_KINDS),
    target: str = typer.Option(PACKAGED, help="Directory, .gguf file, hub name, or a packaged model."),
    prompts: list[Path] = typer.Option([], help="JSONL with prompt, turns or token_ids; repeatable."),
    from_log: Path = typer.Option(None, help="Directory of a coordinator's verdict_log to learn from, not prompts."),
    init: Path = typer.Option(None, help="Drafter of the same kind and target to go on from; keeps its block, vocab."),
    out: Path = typer.Option(None, help="Directory to export to; replaced whole."),
    data: Path = typer.Option(None, help="Where the target's texts are kept; OUT.data without."),
    minutes: float = typer.Option(30.0, min=0.01, help="Time for training itself."),
    steps: int = typer.Option(0, min=0, help="Steps instead of minutes."),
    max_tokens: int = typer.Option(128, min=4, help="Output tokens per prompt."),
    block: int = typer.Option(5, min=1, max=16, help="Tokens guessed at once at most."),
    vocab: int = typer.Option(8192, min=16, help="Tokens that the drafter can say."),
    overlap: float = typer.Option(0.0, min=0.0, help="Weight of the acceptance (LK) term of the loss."),
    rate: float = typer.Option(1e-3, min=1e-6, help="Learning rate."),
    seed: int = typer.Option(0, help="Of everything random."),
    smoke: bool = typer.Option(False, help=_SMOKE),
    as_json: bool = typer.Option(False, "--json", help="Print the result as one line of JSON."),
) -> None:
    """Make a drafter for a target; started again, it goes on where it was interrupted."""
    if smoke:
        _smoke(kind, seed, as_json=as_json)
        return
    from paceline.training.distil import DistilOptions
    from paceline.training.loop import Schedule
    from paceline.training.losses import LossWeights
    from paceline.training.run import Plan, run
    from paceline.training.subject import TrainOptions

    if out is None:
        fail(InvalidRequest("out: a drafter needs a directory to go to; give --out DIRECTORY."), as_json=as_json)
    schedule = Schedule(minutes=minutes, steps=steps, rate=rate, seed=seed)
    plan = Plan(
        kind=kind,
        target=target,
        prompts=tuple(prompts),
        out=out,
        data=data or Path(f"{out}.data"),
        distil=DistilOptions(max_tokens=max_tokens, seed=seed),
        train=TrainOptions(block, vocab, schedule, LossWeights(overlap=overlap), init),
        command=_command(),
        log=from_log,
    )
    resume = "the same command goes on from the last checkpoint"
    _tell(_work(lambda listener: run(plan, listener), resume, as_json=as_json), as_json)


def _command() -> str:
    return shlex.join(command(sys.argv[1:]))


def _work(work: Callable[[Listener], ResultT], remedy: str, *, as_json: bool) -> ResultT:
    try:
        return work(_listener())
    except PacelineError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        say(f"interrupted; {remedy}")
        raise typer.Exit(130) from None


def _smoke(kind: str, seed: int, *, as_json: bool) -> None:
    """Exit code 1 unless the drafter that learned gets further per step than looking up."""
    from paceline.training.smoke import SmokeOptions, smoke

    with tempfile.TemporaryDirectory(prefix="paceline-smoke-") as directory:
        options = SmokeOptions(seed=seed)
        run = functools.partial(smoke, kind, Path(directory), options, _command())
        result = _work(run, "nothing is kept of a trial", as_json=as_json)
    learned, lookup = result.trained.held_out.tau, result.lookup.tau
    if as_json:
        typer.echo(json.dumps({"kind": kind, "tau": learned, "lookup_tau": lookup, "is_better": result.is_better}))
    else:
        typer.echo(f"held-out texts: {kind} {learned:.2f} tokens per step, ngram {lookup:.2f}")
    if not result.is_better:
        say("the trained drafter is no better than looking up; training is broken here")
        raise typer.Exit(1)


def _tell(trained: Trained, as_json: bool) -> None:
    score = trained.held_out
    result = {
        "directory": str(trained.directory),
        "parameters": trained.num_parameters,
        "coverage": trained.coverage,
        **trained.judged.figures(""),
        "tau": score.tau,
        "drafted": score.num_drafted,
        "accepted": score.num_accepted,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{trained.directory}: {trained.num_parameters / 1e6:.1f} M parameters")
    judged = trained.judged
    typer.echo(f"held-out texts, real speculative decoding: {score.tau:.2f} tokens per step")
    for kind, count, own in (
        ("greedy", judged.num_greedy, judged.greedy),
        ("sampled", judged.num_sampled, judged.sampled),
    ):
        if count:
            typer.echo(f"  {kind}: {own.tau:.2f} on {count} texts")
    if judged.num_left_out:
        typer.echo(f"  not judged: {judged.num_left_out} texts that were sampled with other noise than the service's")


class _Lines:
    """Progress to standard error, one line in ``EVERY_S``."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def tell(self, text: str, *, now: bool = False) -> None:
        elapsed = time.monotonic()
        if now or elapsed - self._last >= EVERY_S:
            self._last = elapsed
            say(f"{elapsed - self._started:6.0f} s  {text}")

    def made(self, made: Made) -> None:
        text = f"{made.num_prompts} of {made.total} prompts answered, {made.num_tokens} new tokens"
        self.tell(text, now=made.num_prompts == made.total)

    def step(self, step: Progress) -> None:
        places = " ".join(f"{one:.2f}" for one in step.accuracy)
        whole = f"of {step.steps}" if step.steps else ""
        text = f"step {step.step} {whole}  loss {step.loss:.3f}  tau ~{step.tau:.2f}  right {places}"
        self.tell(f"{text}  {step.rows_per_s:.0f} rows/s", now=step.step == step.steps)


def _listener() -> Listener:
    from paceline.training.run import Listener

    lines = _Lines()
    return Listener(lambda text: lines.tell(text, now=True), lines.made, lines.step)
