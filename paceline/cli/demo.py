"""``paceline demo``: the real services, a real model, a handful of real prompts, with and without drafts."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import typer

from paceline.cli.results import tokens_per_second
from paceline.cli.running import program, run
from paceline.cli.stack import StackOptions, running_stack
from paceline.client.aio import Client, Completion
from paceline.core.requests import Chat, ChatMessage, Chunk, DraftMode, GenerateRequest, Started

CODE = """def total(items):
    result = 0
    for item in items:
        result = result + item.price * item.count
    return result

def average(items):
    return total(items) / len(items)"""
TEXT = (
    "The bicycle was introduced in the 19th century in Europe. By the early 21st century there were more than one "
    "billion bicycles. There are many more bicycles than cars. Bicycles are the principal means of transport in many "
    "regions. They also provide a popular form of recreation, and have been adapted for use as children's toys. "
    "Bicycles are used for fitness, military and police applications, courier services, bicycle racing, and stunts."
)
PROMPTS = {
    "code edit": f"Rename the variable result to amount everywhere and repeat the whole code:\n\n{CODE}",
    "summary": f"Summarise this text in three sentences, close to its wording:\n\n{TEXT}",
    "question": f"{TEXT}\n\nAnswer with sentences from the text: what are bicycles used for, and where?",
    "chat": "Give me three tips for a first long bicycle tour.",
}
SAMPLED = "Write a short poem about a light rider who shelters a heavy one from the wind."


def demo(
    max_tokens: int = typer.Option(96, min=8, help="Output tokens per prompt."),
    drafter: str = typer.Option("", help="As for paceline up."),
) -> None:
    """Start everything, generate plainly and with drafts, compare; takes about a minute."""
    run(_demo(max_tokens, drafter))


def _tell(text: str) -> None:
    typer.echo(f"· {text}")


async def _demo(max_tokens: int, drafter: str) -> None:
    started = time.monotonic()
    typer.echo("Paceline: a drafter guesses ahead, a verifier checks many guesses at once, the text stays the same.\n")
    async with running_stack(StackOptions(drafter=drafter, port=0), _tell) as stack, Client(stack.grpc) as client:
        for process in stack.processes:
            typer.echo(f"  {process.role:<12} {process.address:<22} pid {process.pid}")
        await client.complete(_request(PROMPTS["chat"], 8))  # the first request of a process pays for its pages
        typer.echo(f"\nOne answer, as it comes, sampled with a seed:\n\n> {SAMPLED}\n")
        await _stream(client, max_tokens)
        typer.echo(f"\n{'prompt':<12}{'plain':>14}{'with drafts':>16}{'τ':>7}{'speed-up':>10}   identical")
        ratios = [await _compare(client, name, text, max_tokens) for name, text in PROMPTS.items()]
    typer.echo(f"\nmedian speed-up {statistics.median(ratios):.2f} in {time.monotonic() - started:.0f} s")
    _tell_how()


def _request(text: str, max_tokens: int) -> GenerateRequest:
    return GenerateRequest(Chat((ChatMessage("user", text),)), seed=7, max_tokens=max_tokens)


async def _stream(client: Client, max_tokens: int) -> None:
    request = _request(SAMPLED, max_tokens)
    request = replace(request, sampling=replace(request.sampling, temperature=0.8, top_p=0.95))
    async for event in client.generate(request):
        if isinstance(event, Chunk):
            typer.echo(event.text, nl=False)
        elif not isinstance(event, Started):
            typer.echo("")


async def _compare(client: Client, name: str, text: str, max_tokens: int) -> float:
    request = _request(text, max_tokens)
    plain = await client.complete(replace(request, mode=DraftMode.PLAIN))
    drafted = await client.complete(request)
    ratio = tokens_per_second(drafted) / tokens_per_second(plain)
    same = plain.token_ids == drafted.token_ids and plain.text == drafted.text
    typer.echo(
        f"{name:<12}{_rate(plain):>14}{_rate(drafted):>16}{_tau(drafted):>7}{ratio:>10.2f}   "
        f"identical: {'yes' if same else 'NO'}"
    )
    if not same:
        typer.echo("The texts differ: this is a defect; please report it with the log.", err=True)
        raise typer.Exit(1)
    return ratio


def _rate(completion: Completion) -> str:
    return f"{tokens_per_second(completion):.1f} tok/s"


def _tau(completion: Completion) -> str:
    return f"{completion.finished.speculative.mean_acceptance_length:.2f}"


def _tell_how() -> None:
    typer.echo("\nTry it by hand:\n")
    typer.echo(f"  {program()} up")
    typer.echo(f'  {program()} generate --stream "Write a haiku about bicycles."')
    typer.echo(f"  {program()} check-lossless --prompts deploy/prompts/spec_bench_dev.jsonl --limit 12\n")
