"""``paceline generate``: one prompt, or a file of them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from paceline.cli.prompts import read_prompts
from paceline.cli.results import as_json as to_json
from paceline.cli.results import tokens_per_second
from paceline.cli.running import connected, numbers, run, say
from paceline.client.aio import Client, Completion
from paceline.core.errors import InvalidRequest, PacelineError
from paceline.core.requests import Chat, ChatMessage, Chunk, DraftMode, GenerateRequest, Prompt, Started
from paceline.core.types import Profile, SamplingParams


def generate(
    prompt: str = typer.Argument(None, help="Text; - reads standard input."),
    target: str = typer.Option("", help="host:port of a coordinator; without, a local stack is found or started."),
    max_tokens: int = typer.Option(128, help="Output tokens at most."),
    temperature: float = typer.Option(0.0, help="0 is greedy."),
    top_p: float = typer.Option(1.0, help="Keep the likeliest tokens of this mass."),
    top_k: int = typer.Option(0, min=0, help="Keep the k likeliest tokens; 0 keeps all."),
    min_p: float = typer.Option(0.0, help="Drop tokens less likely than this share of the likeliest."),
    repetition_penalty: float = typer.Option(1.0, help="Above 1 discourages tokens that were seen."),
    seed: int = typer.Option(None, help="Key of the noise; drawn afresh without."),
    stop: list[str] = typer.Option([], help="End before this text; repeatable."),
    max_draft: int = typer.Option(None, help="Draft tokens per step at most."),
    profile: Profile = typer.Option(Profile.AUTO, help="What the text is like, for the first draft lengths."),
    system: str = typer.Option("", help="System message of the chat."),
    raw: bool = typer.Option(False, help="No chat template: continue the text as it is."),
    token_ids: str = typer.Option("", help="Prompt as comma-separated token ids."),
    mode: DraftMode = typer.Option(None, help="Who drafts, and when; the service's choice without."),
    plain: bool = typer.Option(False, help="Same engine without drafts: --mode plain."),
    allow_learning: bool = typer.Option(False, help="Token ids may be logged to train drafters, if the service does."),
    tenant: str = typer.Option("", help="On whose behalf; tenants share a busy service equally, and no state."),
    stream: bool = typer.Option(False, help="Show text as it comes."),
    prompts: Path = typer.Option(None, help="JSONL with prompt or turns: one JSON line each comes out."),
    concurrency: int = typer.Option(4, min=1, help="Prompts at once, with --prompts."),
    limit: int = typer.Option(0, min=0, help="Only this many of --prompts."),
    json_: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Generate text; the same text with drafts and without."""
    params = SamplingParams(
        temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, repetition_penalty=repetition_penalty
    )

    def request(text: Prompt) -> GenerateRequest:
        return GenerateRequest(
            text,
            sampling=params,
            seed=seed,
            max_tokens=max_tokens,
            stop=tuple(stop),
            mode=DraftMode.PLAIN if plain else mode,
            max_draft=max_draft,
            profile=profile,
            allow_learning=allow_learning,
            tenant=tenant,
        )

    async def work() -> None:
        rows = read_prompts(prompts, limit) if prompts else []
        given = () if rows else _given(prompt, token_ids)
        async with connected(target, tell=say) as client:
            chat = not raw and (await client.describe()).has_chat_template
            if rows:
                requests = [request(row.token_ids or _prompt(row.text, system, chat)) for row in rows]
                await _many(client, requests, concurrency)
                return
            one = request(given if isinstance(given, tuple) else _prompt(given, system, chat))
            await (_stream(client, one) if stream and not json_ else _whole(client, one, json_))

    run(work(), as_json=json_)


def _given(prompt: str | None, token_ids: str) -> str | tuple[int, ...]:
    if token_ids:
        return numbers(token_ids, "--token-ids")
    if prompt == "-":
        prompt = sys.stdin.read()
    if prompt is None:
        raise InvalidRequest("prompt: give one, or --prompts FILE, or - to read standard input.")
    if not prompt:
        raise InvalidRequest("prompt: it is empty; give at least one character.")
    return prompt


def _prompt(text: str, system: str, chat: bool) -> Prompt:
    if not chat:
        return text
    first = (ChatMessage("system", system),) if system else ()
    return Chat((*first, ChatMessage("user", text)))


async def _whole(client: Client, request: GenerateRequest, json_: bool) -> None:
    completion = await client.complete(request)
    if json_:
        typer.echo(json.dumps(to_json(completion), ensure_ascii=False))
        return
    typer.echo(completion.text or _ids(completion.token_ids))
    _tell(completion)


def _ids(token_ids: Sequence[int]) -> str:
    """What is shown where the service has no tokenizer."""
    return " ".join(map(str, token_ids))


async def _stream(client: Client, request: GenerateRequest) -> None:
    started, text = None, ""
    tokens: list[int] = []
    async for event in client.generate(request):
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Chunk):
            typer.echo(event.text, nl=False)
            text, tokens = text + event.text, [*tokens, *event.token_ids]
        elif started is not None:
            typer.echo("" if text else _ids(tokens))
            _tell(Completion(started, text, tuple(tokens), event))


def _tell(completion: Completion) -> None:
    finished, speculative = completion.finished, completion.finished.speculative
    tau = speculative.mean_acceptance_length
    say(
        f"{finished.usage.completion_tokens} tokens, {tokens_per_second(completion):.1f} tokens/s, "
        f"{speculative.num_steps} steps" + (f", τ {tau:.2f}" if tau else "") + f", {finished.reason.value}; "
        f"see where the time went: paceline trace {completion.started.request_id}"
    )


async def _many(client: Client, requests: list[GenerateRequest], concurrency: int) -> None:
    """One line per prompt, in order; errors are lines too, and make the exit code 1."""
    gate, failures = asyncio.Semaphore(concurrency), 0

    async def one(request: GenerateRequest) -> dict[str, object]:
        async with gate:
            try:
                return to_json(await client.complete(request))
            except PacelineError as error:
                return {"error": {"code": error.code, "message": str(error)}}

    tasks = [asyncio.create_task(one(request)) for request in requests]
    for number, task in enumerate(tasks, start=1):
        result = await task
        failures += "error" in result
        typer.echo(json.dumps({"index": number - 1, **result}, ensure_ascii=False))
        if sys.stderr.isatty():
            typer.echo(f"\r· {number}/{len(tasks)}", err=True, nl=False)
    if failures:
        raise typer.Exit(1)
