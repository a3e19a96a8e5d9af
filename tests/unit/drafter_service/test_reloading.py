"""New weights under way: every session goes over to them, or all stay with the old ones, and none is dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry

from drafter_service.runtime import DrafterRuntime
from paceline.core.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    Mismatch,
    PacelineError,
    ResourceExhausted,
    Unavailable,
)
from paceline.core.ports import Drafter
from paceline.core.types import (
    Close,
    Commit,
    Draft,
    DrafterInfo,
    DraftJob,
    Graft,
    Refused,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tokens,
)
from paceline.drafters.reloading import Reloader
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.speculation.draft_tree import key_of
from paceline.telemetry.metrics import DrafterMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.puppets import DrafterPeer
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.workers import InlineWorker

PROMPT = (1, 2, 3)
SPEC = SessionSpec("s", PROMPT, 3, SamplingParams(), StopRules(40), window=6)
WHOLE = reference(PROMPT, 40)
MORE = Draft("s", 5, (), grafts=(Graft(key_of(WHOLE[2:6]), WHOLE[6:8], (1.0, 1.0)),))
"""Of the old weights, once the first two tokens are committed."""


class Weights(SyntheticDrafter):
    """Guesses that tell which weights made them: the old ones are always right, the new ones never."""

    def __init__(self, name: str, agreement: float, **changed: int) -> None:
        super().__init__(8, replace(SYNTHETIC, agreement=agreement))
        self.info: DrafterInfo = replace(self.info, name=name, model_digest=name, **changed)

    def guess(self, context: Tokens, count: int) -> Tokens:
        """What it says after ``context``."""
        twin = Weights(self.info.name, self._agreement)
        twin.open(SPEC)
        return twin.extend([DraftJob("s", context, len(context), count)])[0].token_ids


class Still(LoopClock):
    """Time in which no call takes long, so that every draft comes whole."""

    def monotonic(self) -> float:
        return 0.0


def old() -> Weights:
    return Weights("old", 1.0)


def new() -> Weights:
    return Weights("new", 0.0)


async def settle() -> None:
    """Everybody has done what can be done now."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass
class Served:
    """A runtime at work, its reloader, and one coordinator's stream to it."""

    runtime: DrafterRuntime
    reloader: Reloader
    peer: DrafterPeer
    registry: CollectorRegistry

    def count(self, result: str) -> float:
        return self.registry.get_sample_value("paceline_reloads_total", {"result": result}) or 0.0


@asynccontextmanager
async def serving(load: Callable[[], Drafter], worker: Executor | None = None) -> AsyncIterator[Served]:
    registry = CollectorRegistry()
    metrics = DrafterMetrics(registry)
    runtime = DrafterRuntime(old(), Still(), tracer=Tracer("drafter"), metrics=metrics, worker=worker or InlineWorker())
    running = asyncio.ensure_future(runtime.run())
    peer: DrafterPeer = DrafterPeer(runtime)
    loader = ThreadPoolExecutor(1)
    try:
        yield Served(runtime, Reloader(runtime, load, metrics.reloads, loader), peer, registry)
    finally:
        await peer.vanish()
        running.cancel()
        await asyncio.wait((running,))


async def test_sessions_stay_open_and_guess_with_the_new_weights_from_the_last_commit_on() -> None:
    drafter = new()
    async with serving(lambda: drafter) as served:
        peer = served.peer
        peer.say(SPEC, replace(SPEC, session="t"))
        assert (await peer.hear(Draft)).token_ids == WHOLE[:6]
        assert (await peer.hear(Draft)).token_ids == WHOLE[:6]
        peer.say(Commit("s", 3, WHOLE[:2]))
        assert await peer.hear(Draft) == MORE
        done = await served.reloader.reload()
        assert (done.old.model_digest, done.new.model_digest) == ("old", "new")
        drafts = [await peer.hear(Draft), await peer.hear(Draft)]
        assert {one.session: (one.base, one.token_ids) for one in drafts} == {
            "s": (5, drafter.guess((*PROMPT, *WHOLE[:2]), 6)),
            "t": (3, drafter.guess(PROMPT, 6)),
        }
        peer.say(Commit("s", 5, WHOLE[2:3]))
        assert (await peer.hear(Draft)).token_ids == drafter.guess((*PROMPT, *WHOLE[:3]), 6)
        assert (served.runtime.num_sessions, served.runtime.info.name) == (2, "new")
        assert (served.count("swapped"), served.count("failed")) == (1.0, 0.0)


async def test_sessions_that_come_and_go_afterwards_are_the_new_weights_own() -> None:
    drafter = new()
    async with serving(lambda: drafter) as served:
        await served.reloader.reload()
        served.peer.say(SPEC)
        assert (await served.peer.hear(Draft)).token_ids == drafter.guess(PROMPT, 6)
        assert set(drafter._specs) == {"s"}
        served.peer.say(Close("s"), replace(SPEC, session="t"))
        await served.peer.hear(Draft)
        assert set(drafter._specs) == {"t"}


def missing() -> Drafter:
    raise InvalidRequest("model: the file is gone.")


def corrupt() -> Drafter:
    raise ValueError("header too large")


class Full(Weights):
    def open(self, spec: SessionSpec) -> None:
        if self._specs:
            raise ResourceExhausted("All slots are taken.")
        super().open(spec)


class Poisoned(Weights):
    def open(self, spec: SessionSpec) -> None:
        raise ZeroDivisionError


BROKEN: dict[str, tuple[Callable[[], Drafter], type[PacelineError], str]] = {
    "a file that is gone": (missing, InvalidRequest, "the file is gone"),
    "a file that is damaged": (corrupt, Internal, "could not be loaded"),
    "another vocabulary": (lambda: Weights("new", 0.0, vocab_size=9), Mismatch, "another vocab_size"),
    "a smaller window": (lambda: Weights("new", 0.0, max_window=2), Mismatch, "another max_window"),
    "no room for all": (lambda: Full("new", 0.0), ResourceExhausted, "All slots are taken"),
    "a failing device": (lambda: Poisoned("new", 0.0), Internal, "failed to open a session"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_weights_that_can_not_be_used_leave_the_old_ones_at_work_and_say_why(name: str) -> None:
    load, kind, words = BROKEN[name]
    async with serving(load) as served:
        served.peer.say(SPEC, replace(SPEC, session="t"))
        await served.peer.hear(Draft)
        await served.peer.hear(Draft)
        with pytest.raises(kind, match=words):
            await served.reloader.reload()
        assert (served.runtime.info.name, served.runtime.num_sessions) == ("old", 2)
        served.peer.say(Commit("s", 3, WHOLE[:2]))
        answer = await served.peer.hear(Draft | Refused)
        assert answer == MORE
        assert (served.count("swapped"), served.count("failed")) == (0.0, 1.0)


async def test_after_a_failure_a_better_file_is_taken() -> None:
    loads = iter((missing, new))
    async with serving(lambda: next(loads)()) as served:
        with pytest.raises(InvalidRequest):
            await served.reloader.reload()
        assert (await served.reloader.reload()).new.name == "new"


async def test_one_reload_at_a_time() -> None:
    entered, may_go = threading.Event(), threading.Event()

    def load() -> Drafter:
        entered.set()
        may_go.wait(60.0)
        return new()

    async with serving(load) as served:
        first = asyncio.create_task(served.reloader.reload())
        assert await asyncio.to_thread(entered.wait, 60.0)
        with pytest.raises(Conflict, match="reloading already"):
            await served.reloader.reload()
        may_go.set()
        assert (await first).new.name == "new"


class Gated(Weights):
    """Opening waits until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__("new", 0.0)
        self.entered, self.may_go = threading.Event(), threading.Event()

    def open(self, spec: SessionSpec) -> None:
        self.entered.set()
        self.may_go.wait(60.0)
        super().open(spec)


async def test_sessions_that_leave_or_come_while_the_new_weights_take_over_are_settled_there() -> None:
    drafter = Gated()
    async with serving(lambda: drafter, ThreadPoolExecutor(1)) as served:
        peer = served.peer
        peer.say(SPEC, replace(SPEC, session="t"))
        await peer.hear(Draft)
        await peer.hear(Draft)
        reload = asyncio.create_task(served.reloader.reload())
        assert await asyncio.to_thread(drafter.entered.wait, 60.0)
        peer.say(Close("s"), replace(SPEC, session="u"), Commit("t", 3, WHOLE[:1]))
        await settle()
        assert served.runtime._closing == ["s"]
        drafter.may_go.set()
        await reload
        drafts = {one.session: one for one in (await peer.hear(Draft), await peer.hear(Draft))}
        assert drafts["t"].token_ids == drafter.guess((*PROMPT, *WHOLE[:1]), 6)
        assert drafts["u"].token_ids == drafter.guess(PROMPT, 6)
        assert set(drafter._specs) == {"t", "u"}


async def test_a_drafter_that_ends_meanwhile_says_so_to_whoever_waits() -> None:
    drafter, metrics = Gated(), DrafterMetrics(CollectorRegistry())
    worker = ThreadPoolExecutor(1)
    runtime = DrafterRuntime(old(), Still(), tracer=Tracer("drafter"), metrics=metrics, worker=worker)
    running = asyncio.ensure_future(runtime.run())
    peer: DrafterPeer = DrafterPeer(runtime)
    peer.say(SPEC)
    await peer.hear(Draft)
    waiting = asyncio.create_task(runtime.swap(drafter))
    assert await asyncio.to_thread(drafter.entered.wait, 60.0)
    running.cancel()
    await asyncio.wait((running,))
    with pytest.raises(Unavailable, match="has ended"):
        await waiting
    drafter.may_go.set()
    await peer.vanish()
