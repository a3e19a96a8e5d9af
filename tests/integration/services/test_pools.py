"""Verifiers and drafters on sockets of their own: wrong ones, hostile ones, lost ones, and ones that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from paceline.client.aio import Client, collect
from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings
from paceline.core.errors import PacelineError
from paceline.core.ports import Clock
from paceline.core.requests import Chunk, Finished, GenerateEvent, GenerateRequest, Started
from paceline.core.types import DraftJob, Guess, SamplingParams, StepItem, StepResult, Tokens
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.testing.letters import LETTERS, letters
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.waiting import until
from paceline.verifiers.synthetic import SyntheticVerifier

PROMPT = (1, 2, 3)
LAW = SamplingParams(temperature=0.8, top_p=0.95, seed=5)
REQUEST = GenerateRequest(PROMPT, sampling=LAW, seed=5, max_tokens=60)
WHOLE = reference(PROMPT, 60, sampling=LAW)
OURS = letters().digest


def named(digest: str) -> Any:
    """Makes verifiers that name their tokenizer."""

    def make(settings: VerifierSettings, clock: Clock) -> SyntheticVerifier:
        backend = SyntheticVerifier(settings, clock)
        backend.info = replace(backend.info, tokenizer_digest=digest)
        return backend

    return make


def drafting(digest: str) -> Any:
    def make(settings: DrafterSettings) -> SyntheticDrafter:
        drafter = SyntheticDrafter(settings.max_sessions, settings.synthetic)
        drafter.info = replace(drafter.info, tokenizer_digest=digest)
        return drafter

    return make


async def read(client: Client, request: GenerateRequest = REQUEST) -> Tokens:
    """A client that insists on every index once, in order, between Started and Finished."""
    tokens: list[int] = []
    kinds: list[type] = []
    async for event in client.generate(request):
        kinds.append(type(event))
        if isinstance(event, Chunk):
            assert event.start == len(tokens)
            tokens += event.token_ids
    assert kinds == [Started, *[Chunk] * (len(kinds) - 2), Finished]
    return tuple(tokens)


async def healthy(client: Client, num_verifiers: int, num_drafters: int) -> None:
    """Wait until the coordinator sees so many."""
    async with asyncio.timeout(60.0):
        while True:
            info = await client.describe()
            pools = (info.verifiers, info.drafters)
            if [sum(member.healthy for member in pool) for pool in pools] == [num_verifiers, num_drafters]:
                return


async def test_a_drafter_with_another_tokenizer_is_not_used_and_describe_says_why(
    settings: CoordinatorSettings,
) -> None:
    async with (
        serve_verifier(make=named(OURS)) as verifier,
        serve_drafter(make=drafting("o" * 64)) as wrong,
        serve_drafter(make=drafting(OURS)) as right,
    ):
        pools = replace(settings, verifiers=(verifier.address,), drafters=(wrong.address, right.address))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 1)
            refused, used = (await client.describe()).drafters
            assert refused.detail == (
                f"Drafter synthetic has tokenizer oooooooooooo, verifier synthetic-64 {OURS[:12]}; "
                "use a drafter with the target's tokenizer."
            )
            assert used.detail == ""
            completion = await client.complete(REQUEST)
            while not completion.finished.speculative.num_draft_tokens:  # on a busy machine drafts may come too late
                completion = await client.complete(REQUEST)
            assert completion.token_ids == WHOLE
            assert wrong.runtime.num_sessions == 0


async def test_a_verifier_with_another_tokenizer_than_the_coordinators_is_not_used(
    settings: CoordinatorSettings,
) -> None:
    async with serve_verifier(make=named("o" * 64)) as wrong, serve_verifier(make=named(OURS)) as right:
        pools = replace(settings, verifiers=(wrong.address, right.address))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 0)
            refused, used = (await client.describe()).verifiers
            assert "set the coordinator's tokenizer to the verifier's model" in refused.detail
            assert used.healthy
            assert await read(client) == WHOLE


class Hostile(SyntheticDrafter):
    """Ids that no vocabulary has, paths without end, and now and then the truth."""

    calls = 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.calls += 1
        lies: list[Tokens] = [(len(LETTERS),), (2**32 - 1, 1), (3,) * 300]
        guesses = super().extend([replace(job, context=job.context[: job.committed]) for job in jobs])
        return guesses if self.calls % 2 else [Guess(one.session, lies[self.calls // 2 % 3]) for one in guesses]


async def test_a_hostile_drafter_costs_at_most_its_drafts(settings: CoordinatorSettings) -> None:
    async with (
        serve_verifier() as verifier,
        serve_drafter(make=lambda settings: Hostile(64, SYNTHETIC)) as drafter,
    ):
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 1)
            for _ in range(3):
                assert await read(client) == WHOLE
            assert drafter.runtime.info.name == "synthetic"


async def test_losing_the_drafter_in_mid_stream_is_not_noticed(settings: CoordinatorSettings) -> None:
    async with serve_verifier() as verifier, AsyncExitStack() as drafting_ends:
        drafter = await drafting_ends.enter_async_context(serve_drafter())
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 1)
            events = client.generate(REQUEST)
            seen = [await anext(events) for _ in range(3)]
            await drafting_ends.aclose()
            completion = await collect(after(seen, events))
            assert completion.token_ids == WHOLE
            await healthy(client, 1, 0)


async def test_losing_one_of_two_verifiers_in_mid_stream_is_not_noticed(settings: CoordinatorSettings) -> None:
    async with AsyncExitStack() as ends, serve_verifier() as second, serve_drafter() as drafter:
        first = await ends.enter_async_context(serve_verifier())
        pools = replace(settings, verifiers=(first.address, second.address), drafters=(drafter.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 2, 1)
            reading = [asyncio.create_task(read(client)) for _ in range(4)]
            await until(lambda: [one.runtime.num_sessions for one in (first, second)] == [2, 2])
            await ends.aclose()
            assert [await outcome for outcome in reading] == [WHOLE] * 4
            await healthy(client, 1, 1)


async def test_the_only_verifier_may_come_back_on_its_address(settings: CoordinatorSettings) -> None:
    async with AsyncExitStack() as ends:
        verifier = await ends.enter_async_context(serve_verifier())
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 0)
            events = client.generate(REQUEST)
            seen = [await anext(events) for _ in range(3)]
            await ends.aclose()
            await healthy(client, 0, 0)
            async with serve_verifier(listen=verifier.address):
                completion = await collect(after(seen, events))
            assert completion.token_ids == WHOLE


async def test_a_request_that_no_verifier_continues_ends_at_its_deadline(settings: CoordinatorSettings) -> None:
    store = UnreliableStore()
    async with AsyncExitStack() as ends:
        verifier = await ends.enter_async_context(serve_verifier())
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, store) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 1, 0)
            events = coordinator.runtime.generate(replace(REQUEST, deadline_s=3.0))
            seen = [await anext(events) for _ in range(3)]
            await ends.aclose()
            with pytest.raises(PacelineError, match=r"longer than 3 s, lastly without a verifier \(") as failure:
                await collect(after(seen, events))
            assert failure.value.code == "DEADLINE_EXCEEDED"
            (session,) = store.sessions
            record = await store.read(session)
            assert record.state == "C"
            assert record.tokens == WHOLE[: len(record.tokens)]


async def test_a_draining_verifier_hands_over_when_its_sessions_have_ended(settings: CoordinatorSettings) -> None:
    async with serve_verifier() as first, serve_verifier() as second:
        pools = replace(settings, verifiers=(first.address, second.address))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 2, 0)
            long = replace(REQUEST, max_tokens=200)  # still running when Describe has answered
            reading = [asyncio.create_task(read(client, long)) for _ in range(2)]
            await until(lambda: [one.runtime.num_sessions for one in (first, second)] == [1, 1])
            first.runtime.drain("restarting")
            await healthy(client, 1, 0)
            info = await client.describe()
            draining = next(member for member in info.verifiers if member.address == first.address)
            assert draining.detail == f"{first.address} is draining: restarting."
            assert await read(client) == WHOLE
            assert [await outcome for outcome in reading] == [reference(PROMPT, 200, sampling=LAW)] * 2
            await first.runtime.wait_idle()


class Dying(SyntheticVerifier):
    """Its 20th step is its last."""

    steps = 0

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        self.steps += 1
        if self.steps >= 20:
            raise RuntimeError("the device is gone")
        return await super().step(items)


async def test_a_verifier_whose_device_dies_hands_its_sessions_over_at_once(settings: CoordinatorSettings) -> None:
    async with serve_verifier(make=Dying) as dying, serve_verifier(listen="127.0.0.2:0") as second:
        pools = replace(settings, verifiers=(dying.address, second.address))
        async with serve_coordinator(pools, UnreliableStore()) as coordinator, Client(coordinator.address) as client:
            await healthy(client, 2, 0)
            assert await asyncio.gather(*(read(client) for _ in range(4))) == [WHOLE] * 4
            await healthy(client, 1, 0)


async def test_sessions_of_a_coordinator_that_is_gone_are_closed_everywhere(settings: CoordinatorSettings) -> None:
    async with serve_verifier() as verifier, serve_drafter() as drafter:
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with AsyncExitStack() as ends:
            coordinator = await ends.enter_async_context(serve_coordinator(pools, UnreliableStore()))
            client = await ends.enter_async_context(Client(coordinator.address))
            await healthy(client, 1, 1)
            events = client.generate(replace(REQUEST, max_tokens=1900))
            async with aclosing(events):
                await anext(events)
                await anext(events)
                assert (verifier.runtime.num_sessions, drafter.runtime.num_sessions) == (1, 1)
        await until(lambda: verifier.runtime.num_sessions == drafter.runtime.num_sessions == 0)


async def after(seen: Sequence[GenerateEvent], events: AsyncGenerator[GenerateEvent]) -> AsyncGenerator[GenerateEvent]:
    """A stream from its beginning, the part that was read included."""
    for event in seen:
        yield event
    async for event in events:
        yield event
