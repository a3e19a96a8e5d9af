"""New weights for a drafter that serves: over real sockets and in a process of its own, in the middle of a request."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from support.processes import environment, generate, is_alive, paceline, stack, synthetic

from paceline.client.aio import Client, reload_drafter
from paceline.config.settings import CoordinatorSettings, DrafterSettings
from paceline.core.errors import InvalidRequest, NotFound, Unavailable, Unsupported
from paceline.core.ports import Drafter
from paceline.core.requests import Chunk, GenerateRequest
from paceline.core.types import VerifierInfo
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.store.memory import MemoryStore
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.system import DRAFTER
from paceline.testing.waiting import until

PROMPT = (1, 2, 3)


class Shelf:
    """Weights in the order in which they are loaded: right ones, then none that work, then wrong ones."""

    def __init__(self) -> None:
        self.num_loads = 0

    def load(self, settings: DrafterSettings) -> Drafter:
        self.num_loads += 1
        if self.num_loads == 2:
            raise InvalidRequest("model: half of the file is missing.")
        agreement = 1.0 if self.num_loads == 1 else 0.0
        drafter = SyntheticDrafter(8, replace(SYNTHETIC, agreement=agreement))
        drafter.info = replace(drafter.info, model_digest=f"{self.num_loads:064x}")
        return drafter


async def test_a_request_goes_on_through_a_failed_and_a_successful_reload_with_the_same_text() -> None:
    shelf, tokens = Shelf(), list[int]()
    async with serve_verifier() as verifier, serve_drafter(make=shelf.load) as drafter:
        settings = CoordinatorSettings(verifiers=(verifier.address,), drafters=(drafter.address,), tokenizer="")
        async with serve_coordinator(settings, MemoryStore()) as coordinator, Client(coordinator.address) as client:
            while not any(member.healthy for member in (await client.describe()).drafters):
                continue
            async for event in client.generate(GenerateRequest(PROMPT, max_tokens=60, seed=1)):
                if isinstance(event, Chunk):
                    tokens += event.token_ids
                    if shelf.num_loads == 1 and len(tokens) > 5:
                        with pytest.raises(InvalidRequest, match="half of the file"):
                            await reload_drafter(drafter.address)
                        assert await reload_drafter(drafter.address) == (f"{1:064x}", f"{3:064x}")
            assert (await client.describe()).drafters[0].healthy
        assert drafter.runtime.info.model_digest == f"{3:064x}"
    assert tuple(tokens) == reference(PROMPT, 60)


async def test_a_request_goes_on_while_the_drafter_inside_its_verifier_is_loaded_anew() -> None:
    shelf, tokens = Shelf(), list[int]()
    async with serve_verifier(make_resident=lambda settings, target, state: shelf.load(DRAFTER)) as verifier:
        settings = CoordinatorSettings(verifiers=(verifier.address,), tokenizer="")
        async with serve_coordinator(settings, MemoryStore()) as coordinator, Client(coordinator.address) as client:
            await coordinator.runtime.wait_ready()
            async for event in client.generate(GenerateRequest(PROMPT, max_tokens=120, seed=1)):
                if isinstance(event, Chunk):
                    tokens += event.token_ids
                    if shelf.num_loads == 1 and len(tokens) > 5:
                        with pytest.raises(InvalidRequest, match="half of the file"):
                            await reload_drafter(verifier.address)
                        assert await reload_drafter(verifier.address) == (f"{1:064x}", f"{3:064x}")
                        assert len(tokens) < 120
            assert [one.resident.model_digest for one in await residents(client) if one.resident] == [f"{3:064x}"]
            assert verifier.runtime.num_sessions == 0
    assert tuple(tokens) == reference(PROMPT, 120)


async def residents(client: Client) -> list[VerifierInfo]:
    members = (await client.describe_now()).verifiers
    return [member.info for member in members if isinstance(member.info, VerifierInfo)]


async def test_a_verifier_without_a_drafter_and_a_coordinator_have_nothing_to_reload() -> None:
    async with serve_verifier() as verifier:
        with pytest.raises(NotFound, match="No drafter is at work here"):
            await reload_drafter(verifier.address)
        settings = CoordinatorSettings(verifiers=(verifier.address,), tokenizer="")
        async with serve_coordinator(settings, MemoryStore()) as coordinator:
            with pytest.raises(Unsupported, match="is no drafter and no verifier"):
                await reload_drafter(coordinator.address)


async def test_nobody_listening_is_said() -> None:
    with pytest.raises(Unavailable, match="Can't reach"):
        await reload_drafter("127.0.0.1:1", timeout_s=5.0)


def test_the_command_and_the_signal_reload_drafters_wherever_they_live_and_all_go_on(tmp_path: Path) -> None:
    inside = ("--resident", "synthetic", "--drafters", "1")
    with stack(*synthetic(), *inside, env=environment(tmp_path)) as running:
        before = generate(running, "--token-ids", "5,6,7", "--max-tokens", "20")
        for role in ("drafter", "verifier"):
            address = next(one["address"] for one in running.ready["processes"] if one["role"] == role)
            done = paceline("reload", address)
            assert (done.code, done.out) == (0, "no model → no model (the same)\n")
        assert paceline("reload", address, "--json").json == {"old_model_digest": "", "new_model_digest": ""}
        for role, count in (("drafter", 1), ("verifier", 2)):
            (log,) = (tmp_path / "logs").rglob(f"{role}-0.log")
            assert swaps(log) == count
            (pid,) = running.pids(role)
            os.kill(pid, signal.SIGHUP)
            asyncio.run(until(lambda log=log, count=count: swaps(log) > count))  # type: ignore[misc]
        after = generate(running, "--token-ids", "5,6,7", "--max-tokens", "20")
        assert after["token_ids"] == before["token_ids"]
        assert is_alive(running.pids("drafter")[0])
        assert is_alive(running.pids("verifier")[0])
    refused = paceline("reload", running.grpc)
    assert refused.code == 1
    assert refused.err.startswith("error: UNAVAILABLE: ")


def swaps(log: Path) -> int:
    return log.read_text("utf-8").count("weights swapped")
