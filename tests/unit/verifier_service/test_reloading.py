"""New weights for the drafter in a verifier: all sessions go over to them, or all stay; the text is the target's."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from prometheus_client import CollectorRegistry

from paceline.core.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    Mismatch,
    NotFound,
    PacelineError,
    ResourceExhausted,
    Unavailable,
)
from paceline.core.ports import Drafter
from paceline.core.types import Close, Commit, DraftJob, Guess, SamplingParams, SessionSpec, StopRules
from paceline.drafters.reloading import Reloader
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.telemetry.metrics import VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.puppets import VerifierPeer
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import VERIFIER
from paceline.testing.waiting import until
from paceline.testing.workers import InlineWorker
from paceline.verifiers.synthetic import SyntheticVerifier
from verifier_service.resident import Resident
from verifier_service.runtime import VerifierRuntime

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)
LENGTH = 200
SPEC = SessionSpec("s", PROMPT, 3, SamplingParams(), StopRules(LENGTH), max_draft=4)
WHOLE = reference(PROMPT, LENGTH)


class Weights(SyntheticDrafter):
    """Always right; writes down what it was opened with and asked for."""

    def __init__(self, name: str, **changed: int) -> None:
        super().__init__(8, replace(SYNTHETIC, agreement=1.0))
        self.info = replace(self.info, name=name, model_digest=name, **changed)
        self.opened: list[SessionSpec] = []
        self.asked: list[DraftJob] = []

    @property
    def sessions(self) -> set[str]:
        """That are open."""
        return set(self._specs)

    def open(self, spec: SessionSpec) -> None:
        self.opened.append(spec)
        super().open(spec)

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.asked += jobs
        return super().extend(jobs)


@dataclass
class Served:
    """A runtime at work, its reloader, and one coordinator's stream to it."""

    runtime: VerifierRuntime
    reloader: Reloader
    peer: VerifierPeer
    registry: CollectorRegistry
    old: Weights
    running: asyncio.Future[None]

    def count(self, result: str) -> float:
        return self.registry.get_sample_value("paceline_reloads_total", {"result": result}) or 0.0

    async def hear_text(self, session: str, known: int = 0) -> tuple[int, ...]:
        """All tokens of a session from the ``known`` first ones on."""
        tokens: list[int] = []
        while len(tokens) < LENGTH - known:
            commit = await self.peer.hear(Commit)
            if commit.session == session:
                tokens += commit.token_ids
        return tuple(tokens)


@asynccontextmanager
async def serving(load: Callable[[], Drafter], worker: Executor | None = None) -> AsyncIterator[Served]:
    registry, clock, old = CollectorRegistry(), LoopClock(), Weights("old")
    metrics, executor = VerifierMetrics(registry), worker or InlineWorker()
    resident = Resident(old, clock, metrics, executor)
    backend = SyntheticVerifier(VERIFIER, clock)
    runtime = VerifierRuntime(backend, VERIFIER, clock, tracer=Tracer("verifier"), metrics=metrics, resident=resident)
    running = asyncio.ensure_future(runtime.run())
    peer: VerifierPeer = VerifierPeer(runtime)
    try:
        yield Served(runtime, Reloader(runtime, load, metrics.reloads, executor), peer, registry, old, running)
    finally:
        await peer.vanish()
        running.cancel()
        await asyncio.wait((running,))


async def test_open_sessions_go_on_with_the_new_weights_from_what_is_committed() -> None:
    new = Weights("new")
    async with serving(lambda: new) as served:
        served.peer.say(SPEC)
        first = await served.peer.hear(Commit)
        done = await served.reloader.reload()
        assert (done.old.model_digest, done.new.model_digest) == ("old", "new")
        assert first.token_ids + await served.hear_text("s", len(first.token_ids)) == WHOLE
        assert served.runtime.drafter_info is not None
        assert served.runtime.drafter_info.name == "new"
        assert (served.count("swapped"), served.count("failed")) == (1.0, 0.0)
    (opened,) = new.opened
    assert opened.context == (*PROMPT, *WHOLE)[: len(opened.context)]
    assert len(opened.context) >= 3 + len(first.token_ids)
    assert len(new.asked) > 3
    assert [one.opened[0].session for one in (served.old, new)] == ["s", "s"]


async def test_a_verifier_without_sessions_takes_new_weights_at_once_and_uses_them() -> None:
    new = Weights("new")
    async with serving(lambda: new) as served:
        await served.reloader.reload()
        served.peer.say(SPEC)
        assert await served.hear_text("s") == WHOLE
    assert (served.old.asked, new.opened[0].context) == ([], PROMPT)


def missing() -> Drafter:
    raise InvalidRequest("model: the file is gone.")


def corrupt() -> Drafter:
    raise ValueError("header too large")


class Full(Weights):
    def open(self, spec: SessionSpec) -> None:
        raise ResourceExhausted("All slots are taken.")


class Poisoned(Weights):
    def open(self, spec: SessionSpec) -> None:
        raise ZeroDivisionError


BROKEN: dict[str, tuple[Callable[[], Drafter], type[PacelineError], str]] = {
    "a file that is gone": (missing, InvalidRequest, "the file is gone"),
    "a file that is damaged": (corrupt, Internal, "could not be loaded"),
    "another vocabulary": (lambda: Weights("new", vocab_size=9), Mismatch, "another vocab_size"),
    "no room for all": (lambda: Full("new"), ResourceExhausted, "All slots are taken"),
    "a failing device": (lambda: Poisoned("new"), Internal, "failed to open a session"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_weights_that_can_not_be_used_leave_the_old_ones_at_work_and_say_why(name: str) -> None:
    load, kind, words = BROKEN[name]
    async with serving(load) as served:
        served.peer.say(SPEC)
        first = await served.peer.hear(Commit)
        with pytest.raises(kind, match=words):
            await served.reloader.reload()
        before = len(served.old.asked)
        assert first.token_ids + await served.hear_text("s", len(first.token_ids)) == WHOLE
        assert len(served.old.asked) > before
        assert served.runtime.drafter_info is not None
        assert (served.runtime.drafter_info.name, len(served.old.opened)) == ("old", 1)
        assert (served.count("swapped"), served.count("failed")) == (0.0, 1.0)


class Gated(Weights):
    """Opening waits until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__("new")
        self.entered, self.may_go = threading.Event(), threading.Event()

    def open(self, spec: SessionSpec) -> None:
        self.entered.set()
        self.may_go.wait(60.0)
        super().open(spec)


@asynccontextmanager
async def taking_over(served: Served, new: Gated) -> AsyncIterator[asyncio.Task[object]]:
    """Two sessions are open, and the new weights are about to open the first of them."""
    served.peer.say(SPEC, replace(SPEC, session="t"))
    while served.old.sessions != {"s", "t"}:
        await served.peer.hear(Commit)
    reload = asyncio.create_task(served.reloader.reload())
    assert await asyncio.to_thread(new.entered.wait, 60.0)
    try:
        yield reload
    finally:
        new.may_go.set()


async def test_a_session_that_leaves_while_the_new_weights_take_over_is_closed_there() -> None:
    new = Gated()
    async with serving(lambda: new, ThreadPoolExecutor(1)) as served:
        async with taking_over(served, new) as reload:
            served.peer.say(Close("s"))
            await until(lambda: served.runtime.num_sessions == 1)
        await reload
        while "s" in new.sessions:
            await served.peer.hear(Commit)
        assert {one.session for one in new.opened} == {"s", "t"}


async def test_one_successor_at_a_time() -> None:
    new = Gated()
    async with serving(lambda: new, ThreadPoolExecutor(1)) as served, taking_over(served, new):
        with pytest.raises(Conflict, match="about to take over"):
            await served.runtime.swap(Weights("third"))


async def test_a_verifier_that_ends_meanwhile_says_so_to_whoever_waits() -> None:
    new = Gated()
    async with serving(lambda: new, ThreadPoolExecutor(1)) as served, taking_over(served, new) as reload:
        served.running.cancel()
        with pytest.raises(Unavailable, match="has ended"):
            await reload


async def test_without_a_drafter_there_is_nothing_to_reload(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Weights):
        def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
            raise RuntimeError("a defect")

    new = Failing("new")
    with caplog.at_level(logging.CRITICAL):
        async with serving(lambda: new) as served:
            await served.reloader.reload()
            served.peer.say(SPEC)
            assert await served.hear_text("s") == WHOLE
            with pytest.raises(NotFound, match="No drafter is at work here"):
                await served.reloader.reload()
