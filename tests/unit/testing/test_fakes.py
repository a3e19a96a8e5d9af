"""The small fakes behave as what they stand for."""

from __future__ import annotations

import asyncio
import threading

import pytest
from looptime import LoopTimeProxy

from paceline.core.errors import Diverged, Fenced, Gap, NotFound, StoreUnavailable, Unavailable
from paceline.core.ports import NewSession
from paceline.core.types import Commit, Credit, SamplingParams, VerifierCommand, VerifierEvent, VerifierInfo
from paceline.testing.clock import LoopClock
from paceline.testing.letters import CHAT, LETTERS, letters
from paceline.testing.links import LosableLink
from paceline.testing.puppets import VerifierPuppet
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.stores import UnreliableStore
from paceline.testing.workers import InlineWorker
from paceline.wire.memory import MemoryLink

INFO = VerifierInfo("puppet", "m", "", "n", 64, 100, 4)
NEW = NewSession("s1", "fp", "me", "nonce", max_tokens=8, seed=7, model_digest="m", numerics_id="n", prompt=(1, 2))


@pytest.mark.looptime
async def test_the_clock_is_the_loops(looptime: LoopTimeProxy) -> None:
    clock = LoopClock(started_ns=1_000)
    before, before_ns = clock.monotonic(), clock.time_ns()
    await clock.sleep(2.5)
    assert clock.monotonic() - before == pytest.approx(2.5)
    assert clock.time_ns() - before_ns == 2_500_000_000
    assert looptime == 2.5


async def test_an_inline_worker_computes_where_it_is_called() -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(InlineWorker(), threading.get_ident) == threading.get_ident()


async def test_an_inline_worker_passes_errors_on() -> None:
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(InlineWorker(), divmod, 1, 0)


def test_every_letter_is_a_token() -> None:
    tokenizer = letters()
    assert tokenizer.encode(LETTERS) == tuple(range(len(LETTERS)))
    assert tokenizer.decode(range(len(LETTERS))) == LETTERS
    assert tokenizer.vocab_size == SYNTHETIC.vocab_size
    assert not tokenizer.has_chat_template


def test_letters_can_chat() -> None:
    tokenizer = letters(CHAT)
    assert tokenizer.decode(tokenizer.chat([("user", "hi")])) == "user hi. assistant "


def test_the_reference_ends_with_the_first_stop_id() -> None:
    whole = reference((1, 2, 3), 30)
    assert len(whole) == 30
    assert reference((1, 2, 3), 30, stop_token_ids=(whole[7],)) == whole[: whole.index(whole[7]) + 1]


def test_the_reference_depends_on_the_seed_only_where_chance_has_a_say() -> None:
    def output(temperature: float, seed: int) -> tuple[int, ...]:
        return reference((1, 2, 3), 30, sampling=SamplingParams(temperature=temperature, seed=seed))

    assert output(0.0, 1) == output(0.0, 2)
    assert output(1.0, 1) != output(1.0, 2)


async def test_a_store_that_is_away_answers_nothing_and_keeps_what_it_has() -> None:
    store = UnreliableStore()
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    store.is_away = True
    calls = [
        store.create(NEW),
        store.commit("s1", 1, "nonce", base=1, tokens=(6,), finish=None),
        store.cancel("s1", "x"),
        store.read("s1"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call
    store.is_away = False
    assert (await store.read("s1")).tokens == (5,)
    assert store.num_calls == 7


async def test_a_store_can_lose_tokens_sessions_and_owners() -> None:
    store = UnreliableStore()
    await store.create(NEW)
    await store.commit("s1", 1, "nonce", base=0, tokens=(5, 6, 7), finish=None)
    store.lose_tokens("s1", 2)
    with pytest.raises(Gap):
        await store.commit("s1", 1, "nonce", base=3, tokens=(8,), finish=None)
    store.rewrite("s1", (9,))
    with pytest.raises(Diverged):
        await store.commit("s1", 1, "nonce", base=0, tokens=(5,), finish=None)
    store.take_over("s1")
    with pytest.raises(Fenced):
        await store.commit("s1", 1, "nonce", base=1, tokens=(8,), finish=None)
    assert store.sessions == ("s1",)
    store.lose("s1")
    with pytest.raises(NotFound):
        await store.read("s1")


async def test_a_link_carries_both_ways_until_it_is_lost_with_what_is_on_its_way() -> None:
    puppet: VerifierPuppet = VerifierPuppet(INFO)
    link: LosableLink[VerifierInfo, VerifierCommand, VerifierEvent] = LosableLink("v", MemoryLink(puppet, INFO, "v"))
    assert await link.describe() == INFO
    events = link.events()
    first = asyncio.ensure_future(anext(events))
    link.send(Credit("s", 9))
    assert await puppet.hear(Credit) == Credit("s", 9)
    puppet.say(Commit("s", 3, (5,)))
    assert await first == [Commit("s", 3, (5,))]
    puppet.say(Commit("s", 4, (6,)))
    await asyncio.sleep(0)
    link.lose()
    with pytest.raises(Unavailable, match="connection was lost"):
        await anext(events)
    with pytest.raises(Unavailable):
        await link.describe()


async def test_nobody_answers_on_a_link_to_a_party_that_is_down() -> None:
    link: LosableLink[VerifierInfo, VerifierCommand, VerifierEvent] = LosableLink("verifier-7", None)
    with pytest.raises(Unavailable, match="verifier-7"):
        await link.describe()


async def test_a_puppet_passes_over_what_is_not_asked_for() -> None:
    puppet: VerifierPuppet = VerifierPuppet(INFO)
    link: LosableLink[VerifierInfo, VerifierCommand, VerifierEvent] = LosableLink("v", MemoryLink(puppet, INFO, "v"))
    events = link.events()
    reading = asyncio.ensure_future(anext(events))
    link.send(Credit("a", 1))
    link.send(Credit("b", 2))
    assert await puppet.hear(Credit) == Credit("a", 1)
    assert await puppet.hear(Credit) == Credit("b", 2)
    puppet.drain("done")
    assert [event.reason for event in await reading] == ["done"]
    await events.aclose()
