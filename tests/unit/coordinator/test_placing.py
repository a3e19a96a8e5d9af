"""Where a session is served, and whom it leaves alone for a while after a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from coordinator.placing import LONGEST_PAUSE_S, Place
from coordinator.pools import Pool
from paceline.core.errors import PacelineError
from paceline.core.types import Close, Commit, Credit, Refused, VerifierCommand, VerifierEvent, VerifierInfo
from paceline.testing.clock import LoopClock
from paceline.testing.parties import Verifier
from paceline.testing.puppets import VerifierPuppet

pytestmark = pytest.mark.looptime
INFO = VerifierInfo("target", "model", "", "numerics", 64, max_context=100, max_sessions=4)
FULL = Refused("s", "RESOURCE_EXHAUSTED", "All slots are taken.", retryable=True)


class Scene:
    """Two verifiers, a and b, and a session that looks for a place."""

    def __init__(self) -> None:
        self.puppets = {name: VerifierPuppet(replace(INFO, name=name)) for name in "ab"}
        self.parties = {
            name: Verifier(name, lambda clock, name=name: self.puppets[name], LoopClock())  # type: ignore[misc]
            for name in "ab"
        }
        self.pool: Pool[VerifierInfo, VerifierCommand, VerifierEvent] = Pool(
            ["a", "b"], lambda name: self.parties[name].connect(), LoopClock()
        )
        self.events: list[VerifierEvent] = []
        self.losses: list[tuple[str, bool]] = []
        self.place = self.new_place("s")

    def new_place(self, session: str) -> Place[VerifierInfo, VerifierCommand, VerifierEvent]:
        return Place(session, self.pool, LoopClock(), on_event=self.events.append, on_gone=self.on_gone)

    def on_gone(self, error: PacelineError, is_retryable: bool) -> None:
        self.losses.append((error.code, is_retryable))

    def take(self) -> str | None:
        member = self.place.take(lambda info: True)
        return member.address if member else None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.pool.start(tasks)

    async def refuse(self, name: str, refusal: Refused = FULL) -> None:
        self.puppets[name].say(refusal)
        await settle()


async def settle() -> None:
    await asyncio.sleep(0.0001)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    for party in scene.parties.values():
        party.start()
    running = asyncio.ensure_future(scene.run())
    await settle()
    yield scene
    running.cancel()
    await asyncio.wait((running,))
    for party in scene.parties.values():
        await party.close()


async def test_the_member_with_the_fewest_sessions_is_taken(scene: Scene) -> None:
    first, second, third = (scene.new_place(name) for name in ("x", "y", "z"))
    taken = [place.take(lambda info: True) for place in (first, second, third)]
    assert [member.address for member in taken if member] == ["a", "b", "a"]
    first.leave(Close("x"))
    third.leave(Close("z"))
    assert scene.take() == "a"


async def test_only_suitable_members_are_taken(scene: Scene) -> None:
    member = scene.place.take(lambda info: info.name == "b")
    assert member is not None
    assert member.address == "b"
    assert scene.new_place("x").take(lambda info: info.name == "c") is None


async def test_commands_go_to_the_member_and_nowhere_without_one(scene: Scene) -> None:
    scene.place.send(Credit("s", 1))
    scene.take()
    scene.place.send(Credit("s", 2))
    assert await scene.puppets["a"].hear(Credit) == Credit("s", 2)
    scene.place.leave(Close("s"))
    assert await scene.puppets["a"].hear(Close) == Close("s")
    assert scene.place.member is None
    assert [member.num_sessions for member in scene.pool] == [0, 0]


async def test_events_of_the_member_are_handed_on(scene: Scene) -> None:
    scene.take()
    scene.puppets["a"].say(Commit("s", 3, (5,)))
    await settle()
    assert scene.events == [Commit("s", 3, (5,))]


async def test_a_refusal_frees_the_place_and_says_whether_another_try_may_help(scene: Scene) -> None:
    scene.take()
    await scene.refuse("a")
    scene.take()
    await scene.refuse("b", Refused("s", "INVALID_ARGUMENT", "No.", retryable=False))
    assert scene.losses == [("RESOURCE_EXHAUSTED", True), ("INVALID_ARGUMENT", False)]
    assert scene.place.member is None


async def test_who_refused_is_left_alone_while_others_may_be_asked(scene: Scene) -> None:
    assert scene.take() == "a"
    await scene.refuse("a")
    assert scene.take() == "b"
    await scene.refuse("b")
    assert scene.take() is None
    pause = scene.place.retry_in_s
    assert pause is not None
    await asyncio.sleep(pause + 0.0001)
    assert scene.take() == "a"


async def test_pauses_double_with_every_refusal_up_to_a_limit(scene: Scene) -> None:
    scene.parties["b"].kill()
    await settle()
    pauses = []
    for _ in range(8):
        assert scene.take() == "a"
        await scene.refuse("a")
        pauses.append(scene.place.retry_in_s or 0.0)
        await asyncio.sleep(pauses[-1] + 0.00001)
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0], abs=0.001)


async def test_thousands_of_refusals_are_only_a_long_wait(scene: Scene) -> None:
    for _ in range(1100):
        scene.take()
        scene.place.on_event(FULL)
        await asyncio.sleep(LONGEST_PAUSE_S)
    assert scene.take() is not None


async def test_nobody_is_left_alone_for_being_lost(scene: Scene) -> None:
    assert scene.take() == "a"
    scene.parties["a"].cut()
    await settle()
    assert scene.losses == [("UNAVAILABLE", True)]
    assert scene.place.member is None
    assert scene.place.retry_in_s is None
    assert scene.take() == "b"
