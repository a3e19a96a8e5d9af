"""A coordinator with one verifier and one drafter, each on its own socket, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coordinator.runtime import CoordinatorRuntime
from drafter_service.runtime import DrafterRuntime
from paceline.client.aio import Client
from paceline.config.settings import CoordinatorSettings
from paceline.testing.letters import CHAT, letters
from paceline.testing.sockets import Host, serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.waiting import until
from verifier_service.runtime import VerifierRuntime


@dataclass(frozen=True, slots=True)
class Stack:
    verifier: Host[VerifierRuntime]
    drafter: Host[DrafterRuntime]
    coordinator: Host[CoordinatorRuntime]
    client: Client
    store: UnreliableStore

    @property
    def num_sessions(self) -> tuple[int, int, int]:
        """At the verifier, the drafter and the coordinator."""
        return (
            self.verifier.runtime.num_sessions,
            self.drafter.runtime.num_sessions,
            self.coordinator.runtime.num_requests,
        )

    async def until_empty(self) -> None:
        await until(lambda: self.num_sessions == (0, 0, 0))


Stacked = Callable[[CoordinatorSettings], AbstractAsyncContextManager[Stack]]


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("letters")
    letters(CHAT)._backend.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(CHAT, "utf-8")
    return directory


@pytest.fixture(scope="session")
def settings(tokenizer_directory: Path) -> CoordinatorSettings:
    return CoordinatorSettings(tokenizer=str(tokenizer_directory), health_interval_s=0.1)


@asynccontextmanager
async def stacked(settings: CoordinatorSettings) -> AsyncIterator[Stack]:
    store = UnreliableStore()
    async with serve_verifier() as verifier, serve_drafter() as drafter:
        pools = replace(settings, verifiers=(verifier.address,), drafters=(drafter.address,))
        async with serve_coordinator(pools, store) as coordinator, Client(coordinator.address) as client:
            await until(lambda: all(one.healthy for one in coordinator.runtime.describe().drafters))
            await coordinator.runtime.wait_ready()
            yield Stack(verifier, drafter, coordinator, client, store)


@pytest.fixture
async def stack(settings: CoordinatorSettings) -> AsyncIterator[Stack]:
    async with stacked(settings) as stack:
        yield stack


@pytest.fixture(scope="session")
def make_stack() -> Stacked:
    return stacked
