"""One suite for every session store; the Redis one runs on a real Valkey server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from paceline.core.errors import Cancelled, Conflict, Diverged, Fenced, Gap, InvalidRequest, NotFound
from paceline.core.ports import NewSession, SessionRecord, SessionStore
from paceline.core.types import FinishReason
from paceline.store import open_store

NEW = NewSession("s1", "fp", "me", "nonce", max_tokens=8, seed=7, model_digest="m", numerics_id="n", prompt=(1, 2))


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, valkey: str) -> AsyncIterator[SessionStore]:
    url = "memory:" if request.param == "memory" else valkey
    store = await open_store(url)
    if request.param == "redis":
        await store._client.flushall()  # type: ignore[attr-defined]
    yield store
    await store.close()


async def test_a_new_session_is_active_and_empty(store: SessionStore) -> None:
    record = await store.create(NEW)
    assert (record.state, record.epoch, record.tokens, record.max_tokens) == ("A", 1, (), 8)


async def test_creating_twice_with_the_same_request_returns_the_same_session(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    assert (await store.create(NEW)).tokens == (5,)


async def test_creating_with_another_request_is_a_conflict(store: SessionStore) -> None:
    await store.create(NEW)
    with pytest.raises(Conflict):
        await store.create(replace(NEW, fingerprint="other"))


async def test_concurrent_creations_agree_on_one_session(store: SessionStore) -> None:
    records = await asyncio.gather(*(store.create(NEW) for _ in range(16)))
    assert set(records) == {await store.read("s1")}


async def test_commits_append_and_large_ids_survive(store: SessionStore) -> None:
    await store.create(NEW)
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(5, 4_294_967_295), finish=None) == 2
    assert await store.commit("s1", 1, "nonce", base=2, tokens=(0,), finish=None) == 3
    assert (await store.read("s1")).tokens == (5, 4_294_967_295, 0)


async def test_an_overlapping_commit_appends_only_its_tail(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=None)
    assert await store.commit("s1", 1, "nonce", base=1, tokens=(6, 7), finish=None) == 3
    assert (await store.read("s1")).tokens == (5, 6, 7)


async def test_a_duplicate_commit_is_fine_even_from_a_former_owner_and_after_the_end(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=FinishReason.STOP)
    assert await store.commit("s1", 0, "old", base=0, tokens=(5, 6), finish=None) == 2
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=FinishReason.STOP) == 2


async def test_different_tokens_for_a_committed_position_change_nothing(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=None)
    with pytest.raises(Diverged):
        await store.commit("s1", 1, "nonce", base=1, tokens=(9, 9), finish=None)
    assert (await store.read("s1")).tokens == (5, 6)


@pytest.mark.parametrize(("epoch", "nonce"), [(2, "nonce"), (1, "other")])
async def test_a_writer_with_another_epoch_or_nonce_is_fenced(store: SessionStore, epoch: int, nonce: str) -> None:
    await store.create(NEW)
    with pytest.raises(Fenced):
        await store.commit("s1", epoch, nonce, base=0, tokens=(5,), finish=None)
    assert (await store.read("s1")).tokens == ()


async def test_a_gap_is_refused_and_changes_nothing(store: SessionStore) -> None:
    await store.create(NEW)
    with pytest.raises(Gap):
        await store.commit("s1", 1, "nonce", base=1, tokens=(5,), finish=None)
    assert (await store.read("s1")).tokens == ()


async def test_more_tokens_than_were_asked_for_are_refused(store: SessionStore) -> None:
    await store.create(NEW)
    with pytest.raises(InvalidRequest):
        await store.commit("s1", 1, "nonce", base=0, tokens=tuple(range(9)), finish=None)
    assert await store.commit("s1", 1, "nonce", base=0, tokens=tuple(range(8)), finish=None) == 8


@pytest.mark.parametrize(
    ("finish", "state"),
    [
        (FinishReason.STOP, "D"),
        (FinishReason.LENGTH, "D"),
        (FinishReason.CANCELLED, "C"),
        (FinishReason.ERROR, "F"),
    ],
)
async def test_a_final_commit_ends_the_session(store: SessionStore, finish: FinishReason, state: str) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=finish)
    assert (await store.read("s1")).state == state
    with pytest.raises(Cancelled if state == "C" else Fenced):
        await store.commit("s1", 1, "nonce", base=1, tokens=(6,), finish=None)


async def test_the_end_may_come_without_tokens(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    assert await store.commit("s1", 1, "nonce", base=1, tokens=(), finish=FinishReason.STOP) == 1
    assert (await store.read("s1")).state == "D"


async def test_cancelling_fences_the_owner(store: SessionStore) -> None:
    await store.create(NEW)
    record = await store.cancel("s1", "enough")
    assert (record.state, record.reason, record.epoch) == ("C", "enough", 2)
    with pytest.raises(Cancelled):
        await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)


async def test_cancelling_an_ended_session_leaves_it_as_it_is(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=FinishReason.STOP)
    assert (await store.cancel("s1", "late")).state == "D"


async def test_unknown_sessions_are_not_found(store: SessionStore) -> None:
    with pytest.raises(NotFound):
        await store.read("nobody")
    with pytest.raises(NotFound):
        await store.cancel("nobody", "x")
    with pytest.raises(NotFound):
        await store.commit("nobody", 1, "n", base=0, tokens=(), finish=None)


@pytest.mark.parametrize("session", ["", "a" * 65, "a}b", "a:b", "a\x00", "a b"])
async def test_ids_that_could_forge_a_key_are_refused(store: SessionStore, session: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.create(replace(NEW, session=session))
    with pytest.raises(InvalidRequest):
        await store.read(session)
    with pytest.raises(InvalidRequest):
        await store.cancel(session, "x")
    with pytest.raises(InvalidRequest):
        await store.commit(session, 1, "nonce", base=0, tokens=(5,), finish=None)


async def test_a_session_without_tokens_reads_as_it_was_created(store: SessionStore) -> None:
    created = await store.create(NEW)
    assert await store.read("s1") == created == SessionRecord("s1", "A", 1, (), 8, "fp", "")


async def test_creating_an_ended_session_again_shows_how_it_ended(store: SessionStore) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=FinishReason.STOP)
    assert await store.create(NEW) == await store.read("s1")
    assert (await store.create(NEW)).state == "D"


async def test_an_empty_commit_changes_nothing(store: SessionStore) -> None:
    created = await store.create(NEW)
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(), finish=None) == 0
    assert await store.read("s1") == created


async def test_the_same_commit_sent_many_times_at_once_counts_once(store: SessionStore) -> None:
    await store.create(NEW)
    commits = [store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=None) for _ in range(16)]
    assert await asyncio.gather(*commits) == [2] * 16
    assert (await store.read("s1")).tokens == (5, 6)


async def test_sessions_do_not_touch_each_other(store: SessionStore) -> None:
    await store.create(NEW)
    await store.create(replace(NEW, session="s2", fingerprint="other"))
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=FinishReason.STOP)
    assert await store.read("s2") == SessionRecord("s2", "A", 1, (), 8, "other", "")


async def test_a_long_output_of_large_ids_survives(store: SessionStore) -> None:
    tokens = tuple(range(4_294_867_296, 4_294_967_296))
    await store.create(replace(NEW, max_tokens=100_000, seed=2**64 - 1, prompt=tokens))
    assert await store.commit("s1", 1, "nonce", base=0, tokens=tokens, finish=FinishReason.LENGTH) == 100_000
    assert (await store.read("s1")).tokens == tokens


async def test_a_session_that_nobody_touches_is_forgotten_and_its_name_is_free(store: SessionStore) -> None:
    await store.create(replace(NEW, ttl_s=0.01))

    async def is_there() -> bool:
        try:
            await store.read("s1")
        except NotFound:
            return False
        return True

    async with asyncio.timeout(60):
        while await is_there():  # noqa: ASYNC110  (nobody tells us when the time is over)
            await asyncio.sleep(0)
    assert (await store.create(replace(NEW, fingerprint="other"))).fingerprint == "other"
