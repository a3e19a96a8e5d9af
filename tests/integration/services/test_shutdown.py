"""The main functions of the processes, from ready line to SIGTERM: sessions end, move on, or are told where to go."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import coordinator.app
import drafter_service.app
import verifier_service.app
from paceline.client.aio import Client, read_spans
from paceline.config.settings import CoordinatorSettings, ServerSettings
from paceline.core.errors import PacelineError
from paceline.core.requests import Chunk, GenerateRequest, Started
from paceline.core.types import SamplingParams
from paceline.testing.reference import reference
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import DRAFTER, VERIFIER
from paceline.testing.waiting import until

PROMPT = (1, 2, 3)
LAW = SamplingParams(temperature=0.8, top_p=0.95, seed=5)
REQUEST = GenerateRequest(PROMPT, request_id="mine", sampling=LAW, seed=5, max_tokens=60)
WHOLE = reference(PROMPT, 60, sampling=LAW)
LONG_S = 600.0
"""A grace that no test may use up."""


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """The processes configure the root logger; afterwards it is as before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


class Process:
    """A main function at work in this process."""

    def __init__(self, address: str, task: asyncio.Task[None]) -> None:
        self.address = address
        self.task = task

    async def terminate(self) -> None:
        """SIGTERM, and wait for the end of its own accord."""
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(60.0):
            await self.task


def address(ready: Path) -> str:
    return str(json.loads(ready.read_text("utf-8"))["address"])


@asynccontextmanager
async def started(main: Coroutine[Any, Any, None], ready: Path) -> AsyncIterator[Process]:
    task = asyncio.create_task(main)
    await until(lambda: ready.exists() or task.done())
    if task.done():
        task.result()
    try:
        yield Process(address(ready), task)
    finally:
        task.cancel()
        await asyncio.wait((task,))


def server(tmp_path: Path, grace_s: float = LONG_S) -> ServerSettings:
    return ServerSettings(ready_file=str(tmp_path / "ready.json"), grace_s=grace_s)


async def test_an_idle_verifier_ends_at_once_though_a_coordinator_is_connected(
    tmp_path: Path, settings: CoordinatorSettings
) -> None:
    run = verifier_service.app.run(replace(VERIFIER, server=server(tmp_path)))
    async with started(run, tmp_path / "ready.json") as process:
        pools = replace(settings, verifiers=(process.address,))
        async with serve_coordinator(pools, UnreliableStore()) as up, Client(up.address) as client:
            await up.runtime.wait_ready()
            assert (await client.complete(REQUEST)).token_ids == WHOLE
            await process.terminate()


async def test_a_verifier_ends_after_its_last_session(tmp_path: Path, settings: CoordinatorSettings) -> None:
    run = verifier_service.app.run(replace(VERIFIER, server=server(tmp_path)))
    async with started(run, tmp_path / "ready.json") as process:
        pools = replace(settings, verifiers=(process.address,))
        async with serve_coordinator(pools, UnreliableStore()) as up, Client(up.address) as client:
            await up.runtime.wait_ready()
            events = client.generate(REQUEST)
            # A session that the coordinator has sent and the verifier not yet seen would have to go elsewhere.
            seen = [await anext(events), await anext(events)]
            assert isinstance(seen[-1], Chunk)
            await process.terminate()
            seen += [event async for event in events]
            assert sum((event.token_ids for event in seen if isinstance(event, Chunk)), ()) == WHOLE


async def test_sessions_that_outlast_a_verifiers_grace_go_on_elsewhere(
    tmp_path: Path, settings: CoordinatorSettings
) -> None:
    run = verifier_service.app.run(replace(VERIFIER, server=server(tmp_path, grace_s=0.1)))
    async with started(run, tmp_path / "ready.json") as process, serve_verifier() as other:
        pools = replace(settings, verifiers=(process.address, other.address))
        async with serve_coordinator(pools, UnreliableStore()) as up, Client(up.address) as client:
            await until(lambda: all(one.healthy for one in up.runtime.describe().verifiers))
            completing = [asyncio.create_task(client.complete(replace(REQUEST, request_id=name))) for name in "ab"]
            await until(lambda: [one.sessions for one in up.runtime.describe().verifiers] == [1, 1])
            await process.terminate()
            assert [(await one).token_ids for one in completing] == [WHOLE, WHOLE]


async def test_a_drafter_ends_at_once_and_its_sessions_go_on_without_it(
    tmp_path: Path, settings: CoordinatorSettings
) -> None:
    run = drafter_service.app.run(replace(DRAFTER, server=server(tmp_path)))
    async with started(run, tmp_path / "ready.json") as process, serve_verifier() as verifier:
        pools = replace(settings, verifiers=(verifier.address,), drafters=(process.address,))
        async with serve_coordinator(pools, UnreliableStore()) as up, Client(up.address) as client:
            await until(lambda: all(one.healthy for one in up.runtime.describe().drafters))
            completing = asyncio.create_task(client.complete(replace(REQUEST, max_tokens=120)))
            await until(lambda: up.runtime.describe().drafters[0].sessions == 1)
            await process.terminate()
            assert (await completing).token_ids == reference(PROMPT, 120, sampling=LAW)


async def test_a_coordinator_tells_its_clients_where_to_go(tmp_path: Path, settings: CoordinatorSettings) -> None:
    async with serve_verifier() as verifier, serve_drafter() as drafter:
        pools = replace(
            settings, server=server(tmp_path, grace_s=3.0), verifiers=(verifier.address,), drafters=(drafter.address,)
        )
        async with (
            started(coordinator.app.run(pools), tmp_path / "ready.json") as process,
            Client(process.address) as client,
        ):
            assert await client.is_serving()
            short = client.generate(replace(REQUEST, request_id="short", max_tokens=4))
            endless = client.generate(replace(REQUEST, max_tokens=1900))
            begun = [await anext(short), await anext(endless)]
            await process.terminate()
            rest = [event async for event in short]
            assert sum((event.token_ids for event in rest if isinstance(event, Chunk)), ()) == WHOLE[:4]
            with pytest.raises(PacelineError, match="shutting down; send the request to another one") as failure:
                async for _ in endless:
                    pass
            assert all(isinstance(event, Started) for event in begun)
            assert failure.value.code == "UNAVAILABLE"
            await until(lambda: verifier.runtime.num_sessions == drafter.runtime.num_sessions == 0)


async def test_a_coordinator_that_finds_no_verifier_can_be_ended_while_it_waits(
    tmp_path: Path, settings: CoordinatorSettings
) -> None:
    ready = tmp_path / "ready.json"
    pools = replace(settings, server=server(tmp_path), verifiers=("127.0.0.1:1",))
    task = asyncio.create_task(coordinator.app.run(pools))
    await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
    assert not ready.exists()
    await Process("", task).terminate()


async def test_every_process_serves_its_spans(tmp_path: Path, settings: CoordinatorSettings) -> None:
    run = verifier_service.app.run(replace(VERIFIER, server=server(tmp_path)))
    async with started(run, tmp_path / "ready.json") as process:
        pools = replace(settings, verifiers=(process.address,))
        async with serve_coordinator(pools, UnreliableStore()) as up, Client(up.address) as client:
            await up.runtime.wait_ready()
            completion = await client.complete(REQUEST)
            spans = await read_spans(process.address, trace_id=completion.started.trace_id)
            assert {span.service for span in spans} == {"verifier"}
            await process.terminate()
