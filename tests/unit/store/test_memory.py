"""Sessions in memory live as long as in Redis: from the last commit on, and an hour from their end on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from paceline.core.errors import NotFound
from paceline.core.ports import NewSession
from paceline.core.types import FinishReason
from paceline.store.memory import MemoryStore

NEW = NewSession("s1", "fp", "me", "nonce", 8, 7, "m", "n", (1, 2), ttl_s=900.0)


@dataclass
class Hands:
    """Of a clock that the test turns."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def store(clock: Hands) -> MemoryStore:
    store = MemoryStore(clock)
    await store.create(NEW)
    return store


async def is_there(store: MemoryStore) -> bool:
    try:
        await store.read("s1")
    except NotFound:
        return False
    return True


async def test_a_session_lives_for_its_time_and_no_longer(store: MemoryStore, clock: Hands) -> None:
    clock.now = 900.0
    assert await is_there(store)
    clock.now = 900.1
    assert not await is_there(store)


async def test_a_commit_gives_it_its_whole_time_again(store: MemoryStore, clock: Hands) -> None:
    clock.now = 800.0
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    clock.now = 1_700.0
    assert await is_there(store)
    clock.now = 1_700.1
    assert not await is_there(store)


@pytest.mark.parametrize("way", ["finish", "cancel"])
async def test_an_ended_session_can_be_read_for_an_hour(store: MemoryStore, clock: Hands, way: str) -> None:
    if way == "finish":
        await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=FinishReason.STOP)
    else:
        await store.cancel("s1", "enough")
    clock.now = 3_600.0
    assert await is_there(store)
    clock.now = 3_600.1
    assert not await is_there(store)


async def test_reading_does_not_put_off_the_end(store: MemoryStore, clock: Hands) -> None:
    clock.now = 899.0
    await store.read("s1")
    await store.create(NEW)
    clock.now = 901.0
    assert not await is_there(store)
