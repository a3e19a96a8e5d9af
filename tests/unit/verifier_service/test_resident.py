"""A drafter in the verifier's own process, in virtual time: a step takes 10 ms, a call as long as a test says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import pytest
from looptime import LoopTimeProxy
from prometheus_client import CollectorRegistry

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.ports import Clock, Drafter
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import DraftJob, Guess, SamplingParams, SessionSpec, VerifierInfo
from paceline.drafters.ngram import NgramDrafter
from paceline.drafters.random import RandomDrafter
from paceline.drafters.suffix import TOKEN_BYTES, SuffixDrafter
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.telemetry.metrics import VerifierMetrics
from paceline.telemetry.names import Span
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.letters import LETTERS
from paceline.testing.parties import MakeVerifier
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import VERIFIER, drafter, local_system, verifier
from paceline.verifiers.synthetic import SyntheticVerifier
from verifier_service.app import create_resident
from verifier_service.resident import Resident
from verifier_service.runtime import VerifierRuntime

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)
LENGTH = 60
REQUEST = GenerateRequest(PROMPT, max_tokens=LENGTH, max_draft=8)
WARM = SamplingParams(temperature=0.8, top_p=0.95, seed=7)
ALWAYS_RIGHT = replace(SYNTHETIC, agreement=1.0)


def right() -> SyntheticDrafter:
    return SyntheticDrafter(8, ALWAYS_RIGHT)


def wrong() -> SyntheticDrafter:
    return SyntheticDrafter(8, replace(SYNTHETIC, agreement=0.0))


def alone(guest: Drafter) -> MakeVerifier:
    return verifier(resident=lambda target: guest)


class Spy:
    """Lets a drafter do its work, and counts."""

    def __init__(self, inner: Drafter) -> None:
        self.info = inner.info
        self.inner = inner
        self.calls: list[list[DraftJob]] = []
        self.open_sessions: set[str] = set()

    def open(self, spec: SessionSpec) -> None:
        self.open_sessions.add(spec.session)
        self.inner.open(spec)

    def close(self, session: str) -> None:
        self.open_sessions.discard(session)
        self.inner.close(session)

    def state_bytes(self) -> int:
        return self.inner.state_bytes()

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.calls.append(list(jobs))
        return self.inner.extend(jobs)


GUESTS = {
    "right": right,
    "wrong": wrong,
    "partly right": lambda: SyntheticDrafter(8, SYNTHETIC),
    "suffix": lambda: SuffixDrafter(8),
    "ngram": lambda: NgramDrafter(8),
    "random": lambda: RandomDrafter(8, len(LETTERS)),
}


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("remote", [0, 1])
@pytest.mark.parametrize("guest", GUESTS)
async def test_the_text_is_the_targets_whoever_guesses(guest: str, remote: int, sampling: SamplingParams) -> None:
    request = replace(REQUEST, sampling=sampling, seed=sampling.seed)
    async with local_system([alone(GUESTS[guest]())], [drafter()] * remote) as system:
        done = await system.complete(request)
    assert done.token_ids == reference(PROMPT, LENGTH, sampling=sampling)


async def test_right_guesses_save_steps_with_nobody_else_drafting(looptime: LoopTimeProxy) -> None:
    async with local_system([alone(right())], ()) as system:
        metrics = (await system.complete(REQUEST)).finished.speculative
    assert metrics.num_steps == 8
    assert metrics.draft_acceptance_rate == 1.0
    assert float(looptime) == pytest.approx(0.08)


async def test_with_an_answer_at_hand_nobody_waits_for_a_remote_one(looptime: LoopTimeProxy) -> None:
    async with local_system([alone(right())], [drafter()]) as system:
        metrics = (await system.complete(REQUEST)).finished.speculative
    assert float(looptime) == pytest.approx(0.01 * metrics.num_steps)


async def test_its_verifier_says_who_it_is_and_what_it_takes_until_it_is_switched_off() -> None:
    async with local_system([alone(SuffixDrafter(8))], ()) as system:
        before = (await system.verifiers[0].connect().describe()).resident
        await system.complete(REQUEST)
        after = (await system.verifiers[0].connect().describe()).resident
    assert before == SuffixDrafter(8).info
    assert after is not None
    assert TOKEN_BYTES * len(PROMPT) < after.state_bytes <= TOKEN_BYTES * (len(PROMPT) + LENGTH)
    async with local_system([alone(Broken("extend", RuntimeError("a defect")))], ()) as system:
        await system.complete(REQUEST)
        assert (await system.verifiers[0].connect().describe()).resident is None


async def test_a_plain_request_and_one_without_drafts_never_reach_it() -> None:
    spy = Spy(right())
    async with local_system([alone(spy)], ()) as system:
        await system.complete(replace(REQUEST, mode=DraftMode.PLAIN))
        await system.complete(replace(REQUEST, max_draft=0))
    assert (spy.calls, spy.open_sessions) == ([], set())


async def test_it_is_asked_for_all_sessions_in_one_call_and_forgets_those_that_end() -> None:
    spy = Spy(right())
    async with local_system([alone(spy)], ()) as system:
        together = await asyncio.gather(*(system.complete(REQUEST) for _ in range(3)))
        assert {one.token_ids for one in together} == {reference(PROMPT, LENGTH)}
        await system.complete(REQUEST)
        assert max(len(jobs) for jobs in spy.calls) == 3
        assert len(spy.open_sessions) <= 1


class Broken:
    """Fails when it is used."""

    def __init__(self, where: str, error: Exception) -> None:
        self.info = right().info
        self._where = where
        self._error = error
        self.num_calls = 0

    def _do(self, what: str) -> None:
        self.num_calls += 1
        if what == self._where:
            raise self._error

    def open(self, spec: SessionSpec) -> None:
        self._do("open")

    def close(self, session: str) -> None:
        self._do("close")

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self._do("extend")
        return [Guess(job.session, ()) for job in jobs]


@pytest.mark.parametrize("where", ["open", "extend", "close"])
async def test_one_that_fails_is_logged_and_switched_off_and_sessions_go_on(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(where, RuntimeError("a defect"))
    with caplog.at_level(logging.ERROR):
        async with local_system([alone(broken)], ()) as system:
            for _ in range(3):
                assert (await system.complete(REQUEST)).token_ids == reference(PROMPT, LENGTH)
            before = broken.num_calls
            assert (await system.complete(REQUEST)).token_ids == reference(PROMPT, LENGTH)
    assert broken.num_calls == before
    assert [record.message for record in caplog.records] == ["resident drafter failed, switched off"]


async def test_one_that_has_no_room_for_a_session_leaves_it_to_decode_plainly() -> None:
    full = Broken("open", ResourceExhausted("full"))
    async with local_system([alone(full)], ()) as system:
        assert (await system.complete(REQUEST)).token_ids == reference(PROMPT, LENGTH)
    assert full.num_calls == 1


async def test_tokens_that_the_target_does_not_have_switch_it_off(caplog: pytest.LogCaptureFixture) -> None:
    class Foreign(Broken):
        def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
            return [Guess(job.session, (len(LETTERS) + 5,)) for job in jobs]

    async with local_system([alone(Foreign("never", RuntimeError()))], ()) as system:
        assert (await system.complete(REQUEST)).token_ids == reference(PROMPT, LENGTH)
    assert "resident drafter failed" in caplog.text


class SlowWorker(Executor):
    """A call takes so long of the loop's time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        asyncio.get_running_loop().call_later(self._seconds, lambda: future.set_result(fn(*args, **kwargs)))
        return future


def slow(guest: Drafter, seconds: float, tracer: Tracer | None = None) -> MakeVerifier:
    def start(clock: Clock) -> VerifierRuntime:
        metrics = VerifierMetrics(CollectorRegistry())
        resident = Resident(guest, clock, metrics, SlowWorker(seconds))
        backend = SyntheticVerifier(VERIFIER, clock)
        return VerifierRuntime(
            backend, VERIFIER, clock, tracer=tracer or Tracer("verifier"), metrics=metrics, resident=resident
        )

    return start


async def test_one_that_is_slow_and_useless_is_soon_not_asked_any_more(looptime: LoopTimeProxy) -> None:
    spy = Spy(wrong())
    async with local_system([slow(spy, 0.03)], ()) as system:
        done = await system.complete(replace(REQUEST, max_tokens=200))
    assert done.token_ids == reference(PROMPT, 200)
    assert [max(job.max_tokens for job in jobs) for jobs in spy.calls] == [8, 8, 8, 8, 1]  # the fourth as a try
    assert float(looptime) == pytest.approx(2.0 + 5 * 0.03, abs=0.001)


async def test_one_that_is_slow_and_always_right_is_asked_for_as_long_as_that_pays(looptime: LoopTimeProxy) -> None:
    spy = Spy(right())
    async with local_system([slow(spy, 0.03)], ()) as system:
        done = await system.complete(replace(REQUEST, max_tokens=200))
    assert len(spy.calls) == done.finished.speculative.num_spec_steps == 22
    assert float(looptime) < 1.0


async def test_its_time_is_a_span_of_the_step_that_it_held_up() -> None:
    tracer = Tracer("verifier", now_ns=lambda: LoopClock().time_ns())
    async with local_system([slow(right(), 0.002, tracer)], ()) as system:
        done = await system.complete(REQUEST)
    records = tracer.read(done.started.trace_id)
    drafting = [one for one in records if one.name == Span.RESIDENT]
    queues = {one.span_id: one for one in records if one.name == Span.QUEUE}
    assert len(drafting) == done.finished.speculative.num_spec_steps
    for one in drafting:
        assert one.end_ns - one.start_ns == 2_000_000
        assert queues[one.parent_id].start_ns <= one.start_ns + 1_000  # rounded from seconds
        assert one.end_ns <= queues[one.parent_id].end_ns


# --- as the settings name it -----------------------------------------------------------------------------------------

TARGET = VerifierInfo("target", "model", "", "numerics", 64, 100, 5, num_layers=3, hidden_size=8)


def test_settings_without_one_make_none() -> None:
    assert create_resident(VerifierSettings(), TARGET) is None


def test_it_has_room_for_as_many_sessions_as_the_target_and_its_vocabulary() -> None:
    made = create_resident(VerifierSettings(resident="random"), TARGET)
    assert made is not None
    assert (made.info.max_sessions, made.info.vocab_size) == (5, 64)


def test_one_that_is_unknown_or_does_not_fit_the_target_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidRequest, match="'nobody' is unknown"):
        create_resident(VerifierSettings(resident="nobody"), TARGET)
    with pytest.raises(InvalidRequest, match="resident: Drafter synthetic has a vocabulary of 32000 tokens"):
        create_resident(VerifierSettings(resident="synthetic"), TARGET)
