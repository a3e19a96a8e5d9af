"""Members are lost and come back in the middle of a request: one uninterrupted stream, the same tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from looptime import LoopTimeProxy

from paceline.core.errors import DeadlineExceeded
from paceline.core.requests import Chunk, Finished, GenerateEvent, GenerateRequest, Started
from paceline.core.types import SamplingParams, Tokens
from paceline.testing.reference import reference
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import LocalSystem, drafter, local_system, verifier

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)
LAW = SamplingParams(temperature=0.8, top_p=0.95, seed=4)
REQUEST = GenerateRequest(PROMPT, sampling=LAW, seed=4, max_tokens=60)
WHOLE = reference(PROMPT, 60, sampling=LAW)


async def read(system: LocalSystem, request: GenerateRequest = REQUEST) -> Tokens:
    """A client that insists on every index once, in order, between Started and Finished."""
    tokens: list[int] = []
    kinds: list[type] = []
    async for event in system.generate(request):
        kinds.append(type(event))
        if isinstance(event, Chunk):
            assert event.start == len(tokens)
            tokens += event.token_ids
    assert kinds == [Started, *[Chunk] * (len(kinds) - 2), Finished]
    return tuple(tokens)


MOMENTS = [0.0, 0.001, 0.005, 0.01, 0.015, 0.05, 0.1, 0.123]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["kill", "cut"])
async def test_losing_the_drafter_is_not_noticed(moment: float, how: str) -> None:
    async with local_system() as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(moment)
        getattr(system.drafters[0], how)()
        assert await reading == WHOLE


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["kill", "cut"])
async def test_losing_one_of_two_verifiers_is_not_noticed(moment: float, how: str) -> None:
    async with local_system([verifier()] * 2) as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(moment)
        getattr(system.verifiers[0], how)()
        assert await reading == WHOLE
        assert system.verifiers[1].num_sessions == 0


async def test_losing_a_verifier_costs_no_more_than_reading_the_context_again(looptime: LoopTimeProxy) -> None:
    async with local_system([verifier()] * 2, ()) as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(0.305)
        system.verifiers[0].kill()
        assert await reading == WHOLE
        # 30 steps, half a step that was lost, then one chunk with the whole context and the rest of the steps.
        assert float(looptime) == pytest.approx(0.305 + 30 * 0.01)


async def test_losing_the_only_verifier_for_a_while_is_only_a_pause(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(0.05)
        system.verifiers[0].kill()
        await asyncio.sleep(20.0)
        assert not reading.done()
        system.verifiers[0].start()
        assert await reading == WHOLE
        assert looptime < 22.0


async def test_losing_the_connection_to_the_only_verifier_is_only_a_moment(looptime: LoopTimeProxy) -> None:
    async with local_system(drafters=()) as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(0.305)
        system.verifiers[0].cut()
        assert await reading == WHOLE
        assert looptime < 0.305 + 0.05 + 31 * 0.01


async def test_a_request_that_no_verifier_continues_ends_at_its_deadline(looptime: LoopTimeProxy) -> None:
    store = UnreliableStore()
    async with local_system([verifier()] * 2, store=store) as system:
        events = system.generate(replace(REQUEST, deadline_s=5.0))
        started, first = await anext(events), await anext(events)
        assert isinstance(started, Started)
        assert isinstance(first, Chunk)
        for party in system.verifiers:
            party.kill()
        rest: list[Chunk] = []
        with pytest.raises(DeadlineExceeded, match=r"longer than 5 s, lastly without a verifier \(Can't reach verif"):
            await take_all(events, rest)
        assert float(looptime) == pytest.approx(5.0, abs=0.01)
        seen = first.token_ids + sum((chunk.token_ids for chunk in rest), ())
        assert seen == WHOLE[: len(seen)]
        record = await store.read(started.session)
        assert (record.state, record.tokens) == ("C", seen)
        assert [party.num_sessions for party in system.parties] == [0, 0, 0]


async def take_all(events: AsyncGenerator[GenerateEvent], chunks: list[Chunk]) -> None:
    async for event in events:
        assert isinstance(event, Chunk)
        chunks.append(event)


async def test_a_store_that_is_away_for_a_while_is_only_a_pause() -> None:
    store = UnreliableStore()
    async with local_system(store=store) as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(0.05)
        store.is_away = True
        await asyncio.sleep(7.0)
        assert not reading.done()
        store.is_away = False
        assert await reading == WHOLE


@pytest.mark.parametrize("num_lost", [1, 3, None])
async def test_a_store_that_comes_back_with_less_changes_nothing(num_lost: int | None) -> None:
    store = UnreliableStore()
    async with local_system(store=store) as system:
        reading = asyncio.ensure_future(read(system))
        await asyncio.sleep(0.095)
        (session,) = store.sessions
        if num_lost is None:
            store.lose(session)
        else:
            store.lose_tokens(session, num_lost)
        assert await reading == WHOLE
        record = await store.read(session)
        assert (record.state, record.tokens) == ("D", WHOLE)


async def test_a_rolling_restart_under_load_is_not_noticed() -> None:
    requests = [replace(REQUEST, prompt=(index, 2, 3), max_tokens=80) for index in range(6)]
    async with local_system([verifier()] * 3, [drafter()] * 2) as system:
        reading = [asyncio.ensure_future(read(system, request)) for request in requests]
        for party in system.parties:
            await asyncio.sleep(0.08)
            assert party.runtime is not None
            party.runtime.drain("restarting")
            party.kill()
            party.start()
        for request, outcome in zip(requests, reading, strict=True):
            assert await outcome == reference((request.prompt[0], 2, 3), 80, sampling=LAW)


@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_of_losses_changes_no_token_and_leaves_nothing_behind(seed: int) -> None:
    chance, store = random.Random(seed), UnreliableStore()
    requests = [replace(REQUEST, prompt=(index, seed, 3), max_tokens=chance.choice([1, 30, 80])) for index in range(10)]
    async with local_system([verifier()] * 3, [drafter()] * 3, store=store) as system:
        reading = [asyncio.ensure_future(read(system, request)) for request in requests]
        while not all(outcome.done() for outcome in reading):
            await asyncio.sleep(chance.uniform(0.0, 0.12))
            party = chance.choice(system.parties)
            if party.runtime is None:
                party.start()
            else:
                chance.choice([party.kill, party.cut])()
            store.is_away = False
            for session in store.sessions:
                if chance.random() < 0.05 and (await store.read(session)).state == "A":
                    store.lose(session)
            store.is_away = chance.random() < 0.15
        store.is_away = False
        for request, outcome in zip(requests, reading, strict=True):
            assert isinstance(request.prompt, tuple)
            assert await outcome == reference(request.prompt, request.max_tokens or 0, sampling=LAW)
        await asyncio.sleep(0.1)
        assert system.coordinator.num_requests == 0
        assert [party.num_sessions for party in system.parties] == [0] * 6
