"""Processes die in mid-stream; the client sees one uninterrupted stream of exactly the tokens of an undisturbed run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.processes import RunningStack, stack, synthetic

from paceline.client.aio import Client
from paceline.core.errors import DeadlineExceeded, Unavailable
from paceline.core.requests import Chunk, DraftMode, Finished, GenerateEvent, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.models.hash_model import HashModel

SAMPLED = SamplingParams(temperature=0.8, top_p=0.95)
LONG = GenerateRequest((5, 6, 7), sampling=SAMPLED, seed=3, max_tokens=200)
STEP_S = 0.015
"""A text takes long enough for what a test does in the midst of it."""


def reference(request: GenerateRequest) -> tuple[int, ...]:
    assert isinstance(request.prompt, tuple)
    assert request.max_tokens is not None
    model, context = HashModel(32_000), list(request.prompt)
    params = replace(request.sampling, seed=request.seed or 0)
    for _ in range(request.max_tokens):
        context.append(model.next_token(context, params, len(request.prompt)))
    return tuple(context[len(request.prompt) :])


class Reader:
    """Checks that every index comes exactly once and in order."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.finished: Finished | None = None

    def take(self, event: GenerateEvent) -> None:
        if isinstance(event, Chunk):
            assert event.start == len(self.tokens)
            self.tokens += event.token_ids
            self.text += event.text
        elif isinstance(event, Finished):
            self.finished = event


async def read(client: Client, request: GenerateRequest, faults: dict[int, Callable[[], object]]) -> Reader:
    """Read to the end; ``faults[n]`` happens once ``n`` tokens have come."""
    reader, waiting = Reader(), dict(faults)
    async for event in client.generate(request):
        reader.take(event)
        for count in [one for one in waiting if one <= len(reader.tokens)]:
            result = waiting.pop(count)()
            if hasattr(result, "__await__"):
                await result
    assert not waiting, "a fault never happened"
    return reader


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


async def busy_verifier(client: Client) -> str:
    """Address of the verifier that has the session."""
    busy = [one.address for one in (await client.describe()).verifiers if one.sessions]
    assert busy, "the request ended before anything was done to it"
    return busy[0]


@pytest.fixture
def pair() -> Iterator[RunningStack]:
    with stack("--verifiers", "2", *synthetic(step_s=STEP_S)) as one:
        yield one


async def test_killing_the_drafter_and_then_the_busy_verifier_changes_nothing_for_the_client(
    pair: RunningStack,
) -> None:
    async with Client(pair.grpc) as client:

        async def kill_busy() -> None:
            kill(pair.pid_at(await busy_verifier(client)))

        reader = await read(client, LONG, {30: lambda: kill(pair.pids("drafter")[0]), 90: kill_busy})
    assert tuple(reader.tokens) == reference(LONG)
    assert reader.finished is not None
    assert reader.finished.usage.completion_tokens == 200


async def test_a_frozen_drafter_costs_speed_only(pair: RunningStack) -> None:
    drafter = pair.pids("drafter")[0]
    async with Client(pair.grpc) as client:
        try:
            reader = await read(client, LONG, {30: lambda: kill(drafter, signal.SIGSTOP)})
        finally:
            kill(drafter, signal.SIGCONT)
    assert tuple(reader.tokens) == reference(LONG)


async def test_a_verifier_that_comes_back_goes_on_where_the_only_one_was_lost() -> None:
    with stack("--verifiers", "1", *synthetic(step_s=STEP_S)) as one:
        async with Client(one.grpc) as client:
            reader = await read(client, LONG, {60: lambda: kill(one.pids("verifier")[0])})
    assert tuple(reader.tokens) == reference(LONG)


async def test_a_drafter_that_comes_back_is_used_again(pair: RunningStack) -> None:
    plain = replace(LONG, mode=DraftMode.PLAIN, max_tokens=20)
    async with Client(pair.grpc) as client:
        kill(pair.pids("drafter")[0])
        await client.complete(plain)
        done = await client.complete(replace(LONG, max_tokens=60))
        # The supervisor restarts it, which may take long; each request tells whether it is back.
        while not done.finished.speculative.num_accepted_draft_tokens:
            done = await client.complete(replace(LONG, max_tokens=60))
            assert done.token_ids == reference(replace(LONG, max_tokens=60))


async def test_losing_the_coordinator_ends_the_call_with_a_clear_error_and_the_next_one_works() -> None:
    with stack(*synthetic(step_s=STEP_S)) as one:
        async with Client(one.grpc) as client:
            with pytest.raises(Unavailable, match="Can't reach"):
                await read(client, LONG, {30: lambda: kill(one.pids("coordinator")[0])})
            assert (await _once_it_is_back(client)) == reference(LONG)


async def _once_it_is_back(client: Client) -> tuple[int, ...]:
    while True:
        try:
            return (await client.complete(LONG)).token_ids
        except Unavailable:
            await asyncio.sleep(0.1)


async def test_a_store_that_is_killed_comes_back_empty_and_gets_the_session_again() -> None:
    with stack(*synthetic(step_s=STEP_S)) as one:
        async with Client(one.grpc) as client:
            reader = await read(client, LONG, {60: lambda: kill(one.pids("store")[0])})
            assert reader.finished is not None
            assert (await client.complete(replace(LONG, max_tokens=30))).token_ids == reference(LONG)[:30]
    assert tuple(reader.tokens) == reference(LONG)


async def test_a_frozen_store_shows_no_token_that_it_does_not_have_and_the_deadline_ends_the_wait() -> None:
    with stack(*synthetic(step_s=STEP_S)) as one:
        store, reader = one.pids("store")[0], Reader()
        async with Client(one.grpc) as client:
            with pytest.raises(DeadlineExceeded):
                await _read_and_freeze(client, reader, store)
            kill(store, signal.SIGCONT)
            session = await client.complete(replace(LONG, max_tokens=30))
    assert tuple(reader.tokens) == reference(LONG)[: len(reader.tokens)]
    assert 5 <= len(reader.tokens) < 200
    assert session.token_ids == reference(replace(LONG, max_tokens=30))


async def _read_and_freeze(client: Client, reader: Reader, store: int) -> None:
    async for event in client.generate(replace(LONG, deadline_s=6.0)):
        reader.take(event)
        if len(reader.tokens) >= 5:
            kill(store, signal.SIGSTOP)


async def test_a_stream_that_is_silent_for_long_is_not_cut() -> None:
    """Keep-alive pings every 10 s must be welcome on both sides: a server that counts them as a flood cuts the link."""
    slow = replace(LONG, max_tokens=1)
    with stack(*synthetic(step_s=45.0)) as one:
        async with Client(one.grpc) as client:
            assert (await client.complete(slow)).token_ids == reference(slow)
