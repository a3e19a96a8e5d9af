"""A link over an emulated network, in virtual time: when things arrive is exact."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from looptime import LoopTimeProxy

from paceline.config.links import LinkProfile
from paceline.core.errors import Unavailable
from paceline.core.types import Commit, Credit, Draft, Drain, VerifierEvent, VerifierInfo
from paceline.testing.clock import LoopClock
from paceline.testing.puppets import VerifierPuppet
from paceline.wire import frames
from paceline.wire.memory import MemoryLink
from paceline.wire.shaping import shape_verifier_links

INFO = VerifierInfo("puppet", "m", "", "n", 64, 100, 4)
pytestmark = pytest.mark.looptime


class _Far:
    """A puppet behind a link, and everything that arrives from it, with the time."""

    def __init__(self, profile: LinkProfile) -> None:
        self.puppet: VerifierPuppet = VerifierPuppet(INFO)
        connect = shape_verifier_links(lambda name: MemoryLink(self.puppet, INFO, name), profile, LoopClock())
        self.link = connect("v")
        self.events = self.link.events()
        self.arrived: asyncio.Queue[tuple[float, Sequence[VerifierEvent]]] = asyncio.Queue()

    async def read(self) -> None:
        async for batch in self.events:
            self.arrived.put_nowait((asyncio.get_running_loop().time(), batch))


@asynccontextmanager
async def far(profile: LinkProfile) -> AsyncGenerator[_Far]:
    """With its stream open."""
    peer = _Far(profile)
    reading = asyncio.create_task(peer.read())
    await asyncio.sleep(0)
    peer.link.send(Credit("hello", 1))
    await peer.puppet.hear(Credit)
    yield peer
    await peer.link.close()
    await reading


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_half_the_round_trip_passes_in_each_direction() -> None:
    async with far(LinkProfile(rtt_s=0.2)) as peer:
        sent = now()
        peer.link.send(Credit("s", 5))
        assert await peer.puppet.hear(Credit) == Credit("s", 5)
        assert now() == pytest.approx(sent + 0.1)
        peer.puppet.say(Drain("a"))
        assert await peer.arrived.get() == (pytest.approx(sent + 0.2), [Drain("a")])


async def test_many_messages_are_on_their_way_at_once() -> None:
    async with far(LinkProfile(rtt_s=2.0)) as peer:
        began = now()
        for index in range(50):
            peer.puppet.say(Commit("s", index, (index,)))
            await asyncio.sleep(0.01)
        arrived = [await peer.arrived.get() for _ in range(50)]
    assert [batch for _, batch in arrived] == [[Commit("s", index, (index,))] for index in range(50)]
    assert [when for when, _ in arrived] == [pytest.approx(began + 1.0 + 0.01 * index) for index in range(50)]


async def test_jitter_never_lets_a_message_overtake_another() -> None:
    async with far(LinkProfile(rtt_s=2.0, jitter=1.0)) as peer:
        began = now()
        for index in range(100):
            peer.puppet.say(Commit("s", index, (index,)))
            await asyncio.sleep(0.001)
        arrived = [await peer.arrived.get() for _ in range(100)]
    times = [when - began for when, _ in arrived]
    assert [batch[0].start for _, batch in arrived if isinstance(batch[0], Commit)] == list(range(100))
    assert times == sorted(times)
    assert 0.0 <= times[0] < 2.0
    assert len(set(times)) > 2


async def test_jitter_is_the_same_in_every_run() -> None:
    runs = []
    for _ in range(2):
        async with far(LinkProfile(rtt_s=2.0, jitter=0.5)) as peer:
            began = now()
            peer.puppet.say(Drain("a"))
            when, _ = await peer.arrived.get()
            runs.append(when - began)
    assert runs[0] == pytest.approx(runs[1])
    assert 0.5 <= runs[0] <= 1.5


async def test_a_message_takes_as_long_as_its_bytes_and_those_before_it() -> None:
    draft = Draft("s", 3, tuple(range(40)))
    size = frames.verify_request_to_pb([draft]).ByteSize()
    async with far(LinkProfile(bytes_per_s=1000.0)) as peer:
        sent = now()
        for _ in range(3):
            peer.link.send(draft)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        for number in (1, 2, 3):
            assert await peer.puppet.hear(Draft) == draft
            assert now() == pytest.approx(sent + number * size / 1000.0)


async def test_a_connection_is_lost_after_a_random_time_with_what_is_on_its_way() -> None:
    lives = []
    for name in range(40):
        puppet: VerifierPuppet = VerifierPuppet(INFO)
        profile = LinkProfile(rtt_s=0.01, lost_every_s=5.0)
        link = shape_verifier_links(lambda at, puppet=puppet: MemoryLink(puppet, INFO, at), profile, LoopClock())(
            f"{name}"
        )
        began = now()
        with pytest.raises(Unavailable, match="emulated connection was lost"):
            await anext(link.events())
        lives.append(now() - began)
        await link.close()
    assert len(set(lives)) == 40
    assert 2.5 < sum(lives) / 40 < 10.0


async def test_describing_takes_a_round_trip(looptime: LoopTimeProxy) -> None:
    puppet: VerifierPuppet = VerifierPuppet(INFO)
    link = shape_verifier_links(lambda name: MemoryLink(puppet, INFO, name), LinkProfile(rtt_s=0.5), LoopClock())("v")
    assert await link.describe() == INFO
    assert looptime == 0.5
    assert link.address == "v"


async def test_a_peer_that_is_lost_is_noticed_half_a_round_trip_later() -> None:
    class _Breaking(MemoryLink[VerifierInfo, Any, VerifierEvent]):
        async def events(self) -> AsyncGenerator[Sequence[VerifierEvent]]:
            yield [Drain("soon")]
            raise Unavailable("It burns.")

    puppet: VerifierPuppet = VerifierPuppet(INFO)
    link = shape_verifier_links(lambda name: _Breaking(puppet, INFO, name), LinkProfile(rtt_s=0.5), LoopClock())("v")
    events, began = link.events(), now()
    assert await anext(events) == [Drain("soon")]
    with pytest.raises(Unavailable, match="It burns"):
        await anext(events)
    assert now() == pytest.approx(began + 0.25)


async def test_a_network_as_it_is_costs_nothing() -> None:
    puppet: VerifierPuppet = VerifierPuppet(INFO)
    links = [MemoryLink(puppet, INFO, f"{index}") for index in range(2)]
    made = itertools.count()
    connect = shape_verifier_links(lambda name: links[next(made)], LinkProfile(), LoopClock())
    assert connect("v") is links[0]
