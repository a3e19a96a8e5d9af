"""``paceline bench table``: blocks of fixed lengths and the adaptive length against plain decoding, per task.

All modes take turns prompt by prompt in one run. What the outputs are worth is computed afterwards, so that it takes
no time from the measurement.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paceline.cli.drafters import drafters_of, memory_of, name_all
from paceline.cli.machine import provenance
from paceline.cli.measuring import Runner, Sample, take_turns
from paceline.cli.modes import PLAIN, Asking, Encode, encoder, make_runners, parse_modes, prepared
from paceline.cli.plotting import check_plot, plot
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.running import INTERRUPTED, connected, run, say
from paceline.cli.scoring import Scorer, choose_scorer, is_synthetic
from paceline.cli.stack import StackOptions
from paceline.cli.tabulating import LogLikelihoods, TableRow, is_lossless, markdown, tabulate, whole_turns
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.requests import CoordinatorInfo, GenerateRequest
from paceline.core.types import SamplingParams, Tokens, VerifierInfo
from paceline.text.resolve import PACKAGED


def table(
    prompts: Path = typer.Option(..., help="JSONL with prompt, turns or token_ids, and task."),
    target: str = typer.Option("", help="host:port of a coordinator; without, a local stack is found or started."),
    modes: str = typer.Option("plain,4,8,16,pipeline", help="Draft lengths, pipeline (adaptive), transformers; plain."),
    drafter: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    drafter_model: str = typer.Option("", help="Of a stack that is started here."),
    model: str = typer.Option(PACKAGED, help="The target's: of a stack that is started here, and to judge outputs."),
    link: str = typer.Option("", help="As for paceline up, of a stack that is started here."),
    limit: int = typer.Option(0, min=0, help="Only this many prompts, spread over the file."),
    max_tokens: int = typer.Option(128, min=1, help="Output tokens per prompt."),
    rounds: int = typer.Option(1, min=1, help="Times that everything is measured."),
    temperature: float = typer.Option(0.0, help="0 is greedy."),
    top_p: float = typer.Option(1.0, help="Keep the likeliest tokens of this mass."),
    seed: int = typer.Option(0, help="Key of the noise."),
    likelihood: bool = typer.Option(True, help="Ask the target how likely the outputs are."),
    markdown_: Path = typer.Option(None, "--markdown", help="Write the page here instead of showing it."),
    plot_: Path = typer.Option(None, "--plot", help="Draw it here, .svg or .png (extra lab)."),
    out: Path = typer.Option(None, help="Write rows and all samples here as JSON."),
    json_: bool = typer.Option(False, "--json", help="The rows as JSON."),
) -> None:
    """Print speed, acceptance and quality per block length and task; exit 1 unless all text is plain decoding's."""
    outputs = _Outputs(markdown_, plot_, out, json_)
    options = StackOptions(verifier_model=model, drafter=drafter, drafter_model=drafter_model, link=link, port=0)
    law = SamplingParams(temperature=temperature, top_p=top_p)
    request = GenerateRequest("", sampling=law, seed=seed, max_tokens=max_tokens)
    taken = Taken()

    async def work() -> Callable[[], LogLikelihoods | None]:
        outputs.check()
        taken.modes = parse_modes(modes, PLAIN)
        rows = read_prompts(prompts, limit)
        async with connected(target, options) as client:
            taken.info = await client.describe()
            asking = Asking(request, taken.info.has_chat_template)
            judge = await _judge(taken.info, model, asking) if likelihood else None
            await measure(rows, await make_runners(taken.modes, client, asking, model), rounds, taken)
            taken.info = await client.describe_now()
        return lambda: judge(rows, taken.samples) if judge is not None else None

    try:
        taken.scores = run(work(), as_json=json_)()
    except typer.Exit as ending:
        if ending.exit_code == INTERRUPTED and taken.rows():
            say("interrupted: this is what is there so far")
            outputs.write(taken, _facts(request, taken))
        raise
    except KeyboardInterrupt:
        say("interrupted: this is all but the log-likelihood")
    outputs.write(taken, _facts(request, taken))
    if not is_lossless(taken.rows()):
        say("NOT lossless: outputs differ from plain decoding; look at the column identical")
        raise typer.Exit(1)


@dataclass(slots=True)
class Taken:
    """What has been measured so far, also when it ends early."""

    modes: list[str] = field(default_factory=list)
    info: CoordinatorInfo = field(default_factory=lambda: CoordinatorInfo(""))
    samples: list[Sample] = field(default_factory=list)
    scores: LogLikelihoods | None = None

    def rows(self) -> list[TableRow]:
        """Over the prompts that ran in every mode."""
        return tabulate(whole_turns(self.samples, len(self.modes)), self.scores)


async def measure(rows: Sequence[PromptRow], runners: Mapping[str, Runner], rounds: int, taken: Taken) -> None:
    """All samples into ``taken``, one by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("first requests", total=len(rows) * len(runners) * rounds)
        for runner in runners.values():  # the first request of a process pays for its pages
            await runner(rows[0])
        async with aclosing(take_turns(rows, runners, rounds)) as turns:
            async for sample in turns:
                taken.samples.append(sample)
                progress.update(bar, advance=1, description=f"{sample.task} {sample.prompt}")


Judge = Callable[[Sequence[PromptRow], Sequence[Sample]], LogLikelihoods]


async def _judge(info: CoordinatorInfo, model: str, asking: Asking) -> Judge:
    """Computes log-likelihoods later; refuses a wrong model now."""
    target = next((one.info for one in info.verifiers if isinstance(one.info, VerifierInfo)), None)
    if target is None:
        raise NotFound("verifier: the coordinator knows none yet; try again in a moment, or use --no-likelihood.")
    if is_synthetic(target):
        return lambda rows, samples: score(rows, samples, _given_ids, choose_scorer(target, None)())
    directory = await prepared(model)
    make, encode = choose_scorer(target, directory), encoder(directory, is_chat=asking.is_chat)
    return lambda rows, samples: score(rows, samples, encode, make())


def _given_ids(row: PromptRow) -> Tokens:
    if not row.token_ids:
        raise InvalidRequest(f"prompts: {row.name} has no token_ids, which a synthetic target judges by.")
    return row.token_ids


def score(rows: Sequence[PromptRow], samples: Sequence[Sample], encode: Encode, scorer: Scorer) -> LogLikelihoods:
    """Log-likelihoods of all distinct outputs."""
    prompts = {row.name: encode(row) for row in rows}
    distinct = dict.fromkeys((one.prompt, one.token_ids) for one in samples)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("judging outputs", total=len(distinct))
        scores = {}
        for name, output in distinct:
            scores[name, output] = scorer.log_likelihood(prompts[name], output)
            progress.advance(bar)
    return scores


def _facts(request: GenerateRequest, taken: Taken) -> dict[str, str]:
    """The head of the page."""
    made, law = provenance(), request.sampling
    targets, uses = [one.info.name for one in taken.info.verifiers if one.info is not None], drafters_of(taken.info)
    chosen = "greedy" if not law.temperature else f"T={law.temperature:g}, top-p {law.top_p:g}, seed {request.seed}"
    return {
        "Paceline": f"{made['version']}, {made['time']}",
        "Machine": f"{made['cpu']}, {made['cores']} cores",
        "Target": next(iter(targets), "unknown"),
        "Drafter": name_all(uses),
        "Drafter memory": memory_of(uses),
        "Requests": f"{request.max_tokens} tokens at most, {chosen}, one at a time, modes in turns",
        "Command": shlex.join(made["command"]) if isinstance(made["command"], list) else "",
    }


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Where results go."""

    markdown: Path | None
    plot: Path | None
    samples: Path | None
    as_json: bool

    def check(self) -> None:
        """Before anything is measured. Raises ``NotFound``, ``InvalidRequest``, ``Unsupported``."""
        for path in (self.markdown, self.plot, self.samples):
            if path is not None and not path.absolute().parent.is_dir():
                raise NotFound(f"There is no directory {path.parent} for {path.name}; make it first.")
        if self.plot is not None:
            check_plot(self.plot)

    def write(self, taken: Taken, facts: Mapping[str, str]) -> None:
        """Everything that was asked for; the page is shown unless it goes elsewhere."""
        rows, page = taken.rows(), markdown(taken.rows(), facts)
        if self.markdown is not None:
            self.markdown.write_text(page, "utf-8")
        if self.plot is not None:
            plot(rows, f"{facts['Target']}, drafter {facts['Drafter']}; {facts['Machine']}", self.plot)
        uses = [asdict(use) for use in drafters_of(taken.info)]
        results = {**provenance(), "facts": dict(facts), "drafters": uses, "rows": [asdict(row) for row in rows]}
        if self.samples is not None:
            samples = [asdict(sample) for sample in taken.samples]
            self.samples.write_text(json.dumps({**results, "samples": samples}, indent=1), "utf-8")
        if self.as_json:
            typer.echo(json.dumps(results))
        elif self.markdown is None:
            typer.echo(page, nl=False)
