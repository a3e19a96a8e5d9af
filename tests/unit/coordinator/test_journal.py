"""A session's log outlives a store that is away, behind or empty; everything else that the store says is an error."""

from __future__ import annotations

import asyncio

import pytest
from looptime import LoopTimeProxy

from coordinator.journal import FIRST_PAUSE_S, Journal
from coordinator.requests import admit
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import Cancelled, Diverged, Fenced, StoreUnavailable
from paceline.core.requests import GenerateRequest
from paceline.core.types import FinishReason, VerifierInfo
from paceline.testing.stores import UnreliableStore

pytestmark = pytest.mark.looptime
INFO = VerifierInfo("v", "model", "", "numerics", 64, max_context=100, max_sessions=4)
ADMITTED = admit(GenerateRequest((1, 2), seed=7), CoordinatorSettings(max_tokens=8), None, INFO, "r1")
SESSION = ADMITTED.session


@pytest.fixture
async def store() -> UnreliableStore:
    return UnreliableStore()


@pytest.fixture
async def journal(store: UnreliableStore) -> Journal:
    journal = Journal(store, ADMITTED, owner="me")
    await journal.create()
    return journal


async def test_a_session_is_created_as_it_was_admitted(store: UnreliableStore, journal: Journal) -> None:
    record = await store.read(SESSION)
    assert (record.state, record.tokens, record.max_tokens) == ("A", (), 8)
    assert record.fingerprint == ADMITTED.fingerprint


async def test_tokens_are_appended_in_order(store: UnreliableStore, journal: Journal) -> None:
    assert await journal.append((5, 6), None)
    assert await journal.append((7,), FinishReason.LENGTH)
    record = await store.read(SESSION)
    assert (record.tokens, record.state, journal.num_tokens) == ((5, 6, 7), "D", 3)


async def test_creating_does_not_wait_for_a_store_that_is_away(store: UnreliableStore, looptime: LoopTimeProxy) -> None:
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await Journal(store, ADMITTED, owner="me").create()
    assert looptime == 0


async def test_appending_tries_again_in_growing_pauses_until_the_store_is_back(
    store: UnreliableStore, journal: Journal, looptime: LoopTimeProxy
) -> None:
    store.is_away = True
    asyncio.get_running_loop().call_later(5.0, setattr, store, "is_away", False)
    assert await journal.append((5,), None)
    # 0.02 + 0.04 + ... + 0.64 + 1 + 1 + ...: the eleventh attempt is the first one after 5 s.
    assert float(looptime) == pytest.approx(sum(FIRST_PAUSE_S * 2**n for n in range(6)) + 4 * 1.0)
    assert store.num_calls == 1 + 11
    assert (await store.read(SESSION)).tokens == (5,)


async def test_it_says_whether_it_is_waiting(store: UnreliableStore, journal: Journal) -> None:
    store.is_away = True
    appending = asyncio.ensure_future(journal.append((5,), None))
    await asyncio.sleep(0.1)
    assert journal.is_waiting
    assert journal.num_tokens == 0
    store.is_away = False
    assert await appending
    assert not journal.is_waiting


async def test_it_stops_waiting_at_once_when_it_is_abandoned(
    store: UnreliableStore, journal: Journal, looptime: LoopTimeProxy
) -> None:
    store.is_away = True
    asyncio.get_running_loop().call_later(3.3, journal.abandon)
    assert not await journal.append((5,), None)
    assert float(looptime) == pytest.approx(3.3)
    assert journal.num_tokens == 0


async def test_an_abandoned_journal_still_writes_to_a_store_that_answers(
    store: UnreliableStore, journal: Journal
) -> None:
    journal.abandon()
    assert await journal.append((5,), None)


async def test_a_store_that_lost_its_last_writes_gets_the_whole_log_again(
    store: UnreliableStore, journal: Journal
) -> None:
    await journal.append((5, 6), None)
    await journal.append((7,), None)
    store.lose_tokens(SESSION, 2)
    assert await journal.append((8,), None)
    assert (await store.read(SESSION)).tokens == (5, 6, 7, 8)
    assert journal.num_tokens == 4


async def test_a_store_that_lost_everything_gets_the_session_again(store: UnreliableStore, journal: Journal) -> None:
    await journal.append((5, 6), None)
    store.lose(SESSION)
    assert await journal.append((7,), FinishReason.STOP)
    record = await store.read(SESSION)
    assert (record.tokens, record.state, record.fingerprint) == ((5, 6, 7), "D", ADMITTED.fingerprint)


async def test_a_store_that_goes_away_while_it_is_filled_again_is_waited_for(
    store: UnreliableStore, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.append((5, 6), None)
    store.lose(SESSION)
    create = store.create

    async def create_once_it_is_back(new: object) -> object:
        monkeypatch.setattr(store, "create", create)
        raise StoreUnavailable("just now")

    monkeypatch.setattr(store, "create", create_once_it_is_back)
    assert await journal.append((7,), None)
    assert (await store.read(SESSION)).tokens == (5, 6, 7)


async def test_the_log_of_a_session_that_others_own_is_left_alone(store: UnreliableStore, journal: Journal) -> None:
    store.take_over(SESSION)
    with pytest.raises(Fenced, match="another coordinator"):
        await journal.append((5,), None)


async def test_other_tokens_in_the_store_are_an_alarm(store: UnreliableStore, journal: Journal) -> None:
    await journal.append((5, 6), None)
    store.lose_tokens(SESSION, 2)
    store.rewrite(SESSION, (9,))
    with pytest.raises(Diverged):
        await journal.append((7,), None)
    assert (await store.read(SESSION)).tokens == (9,)


async def test_a_session_that_was_cancelled_in_the_store_takes_no_more(
    store: UnreliableStore, journal: Journal
) -> None:
    await store.cancel(SESSION, "by an operator")
    with pytest.raises(Cancelled):
        await journal.append((5,), None)


async def test_cancelling_tells_the_store_why(store: UnreliableStore, journal: Journal) -> None:
    await journal.cancel("enough")
    record = await store.read(SESSION)
    assert (record.state, record.reason) == ("C", "enough")
