"""Members of a pool come, drain and go; sessions are told at once, and a member that is down is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from looptime import LoopTimeProxy

from coordinator.pools import DESCRIBE_S, Member, Pool, check_tokenizer
from paceline.core.errors import InvalidRequest, Mismatch, PacelineError
from paceline.core.types import (
    Commit,
    Credit,
    DrafterInfo,
    KvShape,
    Needs,
    Tap,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.speculation.fitting import can_draft, misfit, tap_for
from paceline.testing.clock import LoopClock
from paceline.testing.parties import Verifier
from paceline.testing.puppets import VerifierPuppet
from paceline.wire.memory import MemoryLink

pytestmark = pytest.mark.looptime
INFO = VerifierInfo("target", "model", "t" * 64, "numerics", 64, max_context=100, max_sessions=4)
DRAFTER = DrafterInfo("helper", tokenizer_digest="t" * 64, vocab_size=64)
VerifierPool = Pool[VerifierInfo, VerifierCommand, VerifierEvent]


class Listener:
    """A session's handler that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[VerifierEvent] = []
        self.losses: list[PacelineError] = []

    def on_event(self, event: VerifierEvent) -> None:
        self.events.append(event)

    def on_lost(self, error: PacelineError) -> None:
        self.losses.append(error)


@asynccontextmanager
async def pool_of(
    *parties: Verifier, check: Callable[[VerifierInfo], None] = lambda info: None, longest_pause_s: float = 1.0
) -> AsyncIterator[VerifierPool]:
    by_name = {party.address: party for party in parties}
    pool: VerifierPool = Pool(
        [*by_name],
        lambda name: by_name[name].connect(),
        LoopClock(),
        longest_pause_s=longest_pause_s,
        check=check,
    )
    running = asyncio.ensure_future(run(pool))
    try:
        yield pool
    finally:
        running.cancel()
        await asyncio.wait((running,))
        for party in parties:
            await party.close()


async def run(pool: VerifierPool) -> None:
    async with asyncio.TaskGroup() as tasks:
        pool.start(tasks)


def party(name: str = "v", info: VerifierInfo = INFO) -> tuple[Verifier, VerifierPuppet]:
    puppet: VerifierPuppet = VerifierPuppet(info)
    return Verifier(name, lambda clock: puppet, LoopClock()), puppet


async def until(pool: VerifierPool, num_healthy: int) -> None:
    changed = asyncio.Event()
    pool.subscribe(changed.set)
    while len(pool.healthy()) != num_healthy:
        changed.clear()
        await changed.wait()
    pool.unsubscribe(changed.set)


async def settle() -> None:
    """Let everything happen that takes no time."""
    await asyncio.sleep(0.001)


async def connected(pool: VerifierPool) -> Member[VerifierInfo, VerifierCommand, VerifierEvent]:
    await until(pool, 1)
    await settle()
    (member,) = pool
    return member


async def test_a_member_that_answers_takes_sessions(looptime: LoopTimeProxy) -> None:
    verifier, _ = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        assert pool.describe()[0].detail == "Not connected yet."
        await until(pool, 1)
        member = pool.describe()[0]
        assert looptime == 0
    assert (member.healthy, member.detail, member.info, member.sessions) == (True, "", INFO, 0)


async def test_events_go_to_the_session_that_they_are_of_and_to_nobody_else() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        member = await connected(pool)
        one, other = Listener(), Listener()
        member.attach("one", one)
        member.attach("other", other)
        puppet.say(Commit("one", 3, (5,)), Commit("nobody", 3, (6,)), Commit("other", 3, (7,)))
        await settle()
        member.detach("other")
        puppet.say(Commit("other", 4, (8,)))
        await settle()
        assert member.num_sessions == 1
    assert one.events == [Commit("one", 3, (5,))]
    assert other.events == [Commit("other", 3, (7,))]


async def test_commands_reach_the_member() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        member = await connected(pool)
        member.send(Credit("s", 9))
        assert await puppet.hear(Credit) == Credit("s", 9)


async def test_all_sessions_of_a_lost_member_are_told_and_detached() -> None:
    verifier, _ = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        member = await connected(pool)
        listeners = [Listener(), Listener()]
        for name, listener in zip("ab", listeners, strict=True):
            member.attach(name, listener)
        verifier.kill()
        await until(pool, 0)
        assert member.num_sessions == 0
        assert "connection was lost" in member.detail
        member.send(Credit("a", 9))  # nobody hears it, and nothing breaks
    assert [str(one.losses[0]) for one in listeners] == ["Can't reach v: the connection was lost. Is it running?"] * 2


async def test_a_lost_member_is_found_again_within_moments(looptime: LoopTimeProxy) -> None:
    verifier, _ = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        await until(pool, 1)
        verifier.cut()
        await until(pool, 0)
        await until(pool, 1)
    assert 0.025 <= looptime <= 0.05


async def test_a_member_that_stays_down_is_tried_in_growing_pauses_with_jitter() -> None:
    verifier, _ = party()
    attempts: list[float] = []
    connect = verifier.connect
    verifier.connect = lambda: (attempts.append(LoopClock().monotonic()), connect())[1]  # type: ignore[method-assign]
    async with pool_of(verifier, longest_pause_s=1.0):
        await asyncio.sleep(20.0)
    pauses = [later - sooner for sooner, later in pairwise(attempts)]
    limits = [min(0.05 * 2**n, 1.0) for n in range(len(pauses))]
    assert len(pauses) > 20
    assert all(limit / 2 - 1e-5 <= pause <= limit + 1e-5 for pause, limit in zip(pauses, limits, strict=True))
    assert len({round(pause, 3) for pause in pauses[5:]}) > 5


async def test_a_member_that_was_up_is_tried_soon_again() -> None:
    verifier, _ = party()
    async with pool_of(verifier) as pool:
        await asyncio.sleep(10.0)
        verifier.start()
        await until(pool, 1)
        lost = LoopClock().monotonic()
        verifier.cut()
        await until(pool, 0)
        await until(pool, 1)
        assert LoopClock().monotonic() - lost <= 0.05


async def test_a_member_that_does_not_say_what_it_is_counts_as_down() -> None:
    verifier, _ = party()
    verifier.start()

    class Silent:
        address = "v"

        async def describe(self) -> VerifierInfo:
            await asyncio.sleep(3600)
            raise AssertionError

        def send(self, command: VerifierCommand) -> None:
            raise AssertionError

        async def events(self) -> AsyncIterator[Sequence[VerifierEvent]]:
            raise AssertionError
            yield

        async def close(self) -> None:
            return

    pool: VerifierPool = Pool(["v"], lambda name: Silent(), LoopClock())
    async with asyncio.TaskGroup() as tasks:
        (running,) = pool.start(tasks)
        await asyncio.sleep(DESCRIBE_S + 0.01)
        running.cancel()
    assert pool.describe()[0].detail == "v does not say what it is within 5 s."
    assert not pool.healthy()
    await verifier.close()


async def test_a_verifier_with_other_ids_is_not_used_and_describe_says_why() -> None:
    verifier, _ = party()
    verifier.start()
    async with pool_of(verifier, check=lambda info: check_tokenizer("o" * 64, info)) as pool:
        await settle()
        (member,) = pool.describe()
    assert not member.healthy
    assert member.info == INFO
    assert member.detail == (
        "Verifier target has tokenizer tttttttttttt, the coordinator oooooooooooo; "
        "set the coordinator's tokenizer to the verifier's model."
    )


async def test_a_draining_member_keeps_its_sessions_and_takes_no_new_ones() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        member = await connected(pool)
        listener = Listener()
        member.attach("s", listener)
        puppet.drain("shutting down")
        await until(pool, 0)
        assert pool.describe()[0].detail == "v is draining: shutting down."
        puppet.say(Commit("s", 3, (5,)))
        await settle()
        assert listener.events == [Commit("s", 3, (5,))]
        assert not listener.losses


async def test_a_draining_member_is_left_once_its_last_session_has_ended() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        member = await connected(pool)
        member.attach("s", Listener())
        puppet.drain("shutting down")
        await settle()
        assert puppet.num_peers == 1
        member.detach("s")
        await settle()
        assert puppet.num_peers == 0
        assert pool.describe()[0].detail == "v is draining: shutting down."


async def test_a_draining_member_without_sessions_is_left_at_once_and_not_bothered_too_often() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        await connected(pool)
        for _ in range(8):
            puppet.drain("for long")
            await settle()
            assert puppet.num_peers == 0
            left = LoopClock().monotonic()
            await connected(pool)
        assert LoopClock().monotonic() - left >= 0.5


async def test_a_listener_hears_of_every_change_until_it_unsubscribes() -> None:
    verifier, puppet = party()
    verifier.start()
    async with pool_of(verifier) as pool:
        changes: list[int] = []
        pool.subscribe(listener := lambda: changes.append(len(pool.healthy())))
        member = await connected(pool)
        member.attach("s", Listener())
        puppet.drain("")
        await settle()
        verifier.cut()
        await settle()
        assert changes == [1, 0, 0]
        pool.unsubscribe(listener)
        await until(pool, 1)
        assert changes == [1, 0, 0]


def test_verifiers_that_name_no_tokenizer_are_taken_as_they_are() -> None:
    check_tokenizer("", INFO)
    check_tokenizer("o" * 64, replace(INFO, tokenizer_digest=""))
    check_tokenizer("t" * 64, INFO)
    with pytest.raises(Mismatch):
        check_tokenizer("o" * 64, INFO)


@pytest.mark.parametrize(
    ("drafter", "reason"),
    [
        (DRAFTER, ""),
        (replace(DRAFTER, tokenizer_digest=""), ""),
        (replace(DRAFTER, vocab_size=0), ""),
        (replace(DRAFTER, needs=Needs(same_tokenizer=True)), ""),
        (
            replace(DRAFTER, tokenizer_digest="o" * 64),
            "Drafter helper has tokenizer oooooooooooo, verifier target tttttttttttt; "
            "use a drafter with the target's tokenizer.",
        ),
        (
            replace(DRAFTER, tokenizer_digest="", needs=Needs(same_tokenizer=True)),
            "Drafter helper has tokenizer unknown, verifier target tttttttttttt; "
            "use a drafter with the target's tokenizer.",
        ),
        (
            replace(DRAFTER, vocab_size=65),
            "Drafter helper has a vocabulary of 65 tokens, verifier target one of 64; "
            "use a drafter with the target's vocabulary.",
        ),
        (
            replace(DRAFTER, needs=Needs(hidden_states=(4,))),
            "Drafter helper needs hidden states: verifier target gives no hidden states. "
            "Or use a drafter that works on token ids.",
        ),
        (replace(DRAFTER, needs=Needs(hidden_states=(4,), is_optional=True)), ""),
        (replace(DRAFTER, needs=Needs(target_digest=INFO.model_digest)), ""),
        (
            replace(DRAFTER, needs=Needs(target_digest="d" * 64)),
            f"Drafter helper was made for the model dddddddddddd, verifier target serves {INFO.model_digest[:12]}; "
            "train one for this target, or use a drafter that fits any.",
        ),
    ],
)
def test_a_drafter_fits_a_verifier_or_there_is_a_reason(drafter: DrafterInfo, reason: str) -> None:
    assert misfit(drafter, INFO) == reason
    assert can_draft(drafter, INFO) is (reason == "")


REMEDY = "Or use a drafter that works on token ids."


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs(), ""),
        (Needs(hidden_states=(1, 29, -1), hidden_size=576), ""),
        (Needs(hidden_states=(-1,)), ""),
        (Needs(hidden_states=(30,)), "there is no tap 30 in verifier target; use 1 to 29, or -1 for the last"),
        (Needs(hidden_states=(-1, 0)), "there is no tap 0 in verifier target; use 1 to 29, or -1 for the last"),
        (Needs(hidden_states=(-2,)), "there is no tap -2 in verifier target; use 1 to 29, or -1 for the last"),
        (Needs(hidden_states=(-1,), hidden_size=64), "hidden states have 576 numbers in verifier target, not 64"),
    ],
)
def test_needed_hidden_states_are_compared_with_what_the_verifier_has(needs: Needs, reason: str) -> None:
    deep, drafter = replace(INFO, num_layers=30, hidden_size=576), replace(DRAFTER, needs=needs)
    assert misfit(drafter, deep) == (f"Drafter helper needs hidden states: {reason}. {REMEDY}" if reason else "")
    assert can_draft(drafter, deep) is (reason == "")
    wanted = Tap("s", needs.hidden_states, 1) if needs.hidden_states and not reason else Tap("s")
    assert tap_for("s", drafter, deep) == wanted


def test_needed_keys_and_values_are_compared_with_what_the_verifier_has() -> None:
    shapes = (KvShape("full_attention", 2, 64), KvShape("sliding_attention", 1, 32))
    giving = replace(INFO, num_layers=30, hidden_size=576, kv=shapes)
    wanted = (replace(shapes[1], history=513), shapes[0])
    drafter = replace(DRAFTER, needs=Needs((-1,), 1, kv=wanted))
    assert misfit(drafter, giving) == ""
    assert tap_for("s", drafter, giving) == Tap("s", (-1,), 1, wanted)
    reason = "sliding_attention has 1 heads of 32 numbers in verifier target, not 2 of 32"
    other = replace(drafter, needs=Needs((-1,), 1, kv=(replace(wanted[0], num_heads=2),)))
    assert misfit(other, giving) == f"Drafter helper needs keys and values: {reason}. {REMEDY}"
    reason = "verifier target gives no keys and values of sliding_attention"
    assert misfit(drafter, replace(giving, kv=())) == f"Drafter helper needs keys and values: {reason}. {REMEDY}"
    assert tap_for("s", drafter, replace(giving, kv=())) == Tap("s")


def test_nothing_is_tapped_where_either_side_is_away_or_the_drafter_can_do_without() -> None:
    drafter = replace(DRAFTER, needs=Needs(hidden_states=(-1,), history=64, is_optional=True))
    assert tap_for("s", drafter, replace(INFO, num_layers=30, hidden_size=576)) == Tap("s", (-1,), 64)
    assert tap_for("s", drafter, INFO) == Tap("s")
    assert tap_for("s", None, INFO) == tap_for("s", drafter, None) == Tap("s")


def test_a_drafter_for_any_tokenizer_fits_a_verifier_without_one() -> None:
    assert can_draft(DRAFTER, replace(INFO, tokenizer_digest=""))


async def test_a_call_that_is_cancelled_below_us_is_lost_and_tried_again() -> None:
    """As gRPC does with a message that it can't encode."""

    class Broken(VerifierPuppet):
        async def attach(
            self, commands: AsyncIterator[Sequence[VerifierCommand]]
        ) -> AsyncGenerator[Sequence[VerifierEvent]]:
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError
            yield ()

    puppet = Broken(INFO)
    pool: VerifierPool = Pool(["v"], lambda name: MemoryLink(puppet, INFO, name), LoopClock())
    running = asyncio.ensure_future(run(pool))
    for _ in range(3):
        await until(pool, 1)
        (member,) = pool
        member.attach("s", listener := Listener())
        await until(pool, 0)
        assert [str(one) for one in listener.losses] == ["The stream to v broke on this side; see the log."]
    running.cancel()
    await asyncio.wait((running,))


async def test_a_peer_that_speaks_nonsense_is_lost_and_tried_again() -> None:
    class Nonsense(VerifierPuppet):
        async def attach(
            self, commands: AsyncIterator[Sequence[VerifierCommand]]
        ) -> AsyncGenerator[Sequence[VerifierEvent]]:
            raise InvalidRequest("kind: a message holds no event that this version knows; update this side.")
            yield ()

    verifier = Verifier("v", lambda clock: Nonsense(INFO), LoopClock())
    verifier.start()
    async with pool_of(verifier) as pool:
        for _ in range(3):
            await until(pool, 1)
            (member,) = pool
            member.attach("s", listener := Listener())
            await until(pool, 0)
            assert [one.code for one in listener.losses] == ["INVALID_ARGUMENT"]
            assert member.detail.startswith("kind: a message holds no event")
