"""Running ahead, rolling back, and what a drafter does when it is asked for too much or fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from drafter_service.runtime import DrafterRuntime
from paceline.core.errors import ResourceExhausted
from paceline.core.ports import Drafter
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DraftJob,
    Drain,
    Graft,
    Guess,
    Refused,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tokens,
)
from paceline.drafters.random import RandomDrafter
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.speculation.draft_tree import key_of
from paceline.telemetry.metrics import DrafterMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.letters import LETTERS
from paceline.testing.puppets import DrafterPeer
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.workers import InlineWorker

VOCAB = len(LETTERS)
PROMPT = (1, 2, 3)
SPEC = SessionSpec("s", PROMPT, 3, SamplingParams(), StopRules(40), window=6)
WHOLE = reference(PROMPT, 40)


class StillClock(LoopClock):
    """Computing takes no time: how much is guessed in one go depends on nothing but the window."""

    def monotonic(self) -> float:
        return 0.0


def right(max_sessions: int = 8) -> SyntheticDrafter:
    """Agrees with the target always."""
    return SyntheticDrafter(max_sessions, replace(SYNTHETIC, agreement=1.0))


@asynccontextmanager
async def serving(
    drafter: Drafter | None = None, worker: Executor | None = None
) -> AsyncIterator[tuple[DrafterRuntime, DrafterPeer]]:
    """A runtime at work, and one coordinator's stream to it."""
    runtime = make_runtime(drafter or right(), worker or InlineWorker())
    running = asyncio.ensure_future(runtime.run())
    peer: DrafterPeer = DrafterPeer(runtime)
    try:
        yield runtime, peer
    finally:
        await peer.vanish()
        running.cancel()
        await asyncio.wait((running,))


def make_runtime(drafter: Drafter, worker: Executor | None = None) -> DrafterRuntime:
    metrics = DrafterMetrics(CollectorRegistry())
    return DrafterRuntime(drafter, StillClock(), tracer=Tracer("drafter"), metrics=metrics, worker=worker)


async def settle() -> None:
    """Let everything happen that needs no waiting."""
    for _ in range(30):
        await asyncio.sleep(0)


async def silent(peer: DrafterPeer, kind: type[object] = object) -> bool:
    """Nothing of this kind is said."""
    listening = asyncio.ensure_future(peer.hear(kind))
    await settle()
    listening.cancel()
    return not listening.done()


def more(base: int, known: Tokens, new: Tokens) -> Draft:
    """Only what is new of a path."""
    return Draft("s", base, (), grafts=(Graft(key_of(known), new, (1.0,) * len(new)),))


async def test_it_runs_ahead_as_far_as_its_window_and_no_further() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC)
        draft = await peer.hear(Draft)
        assert (draft.session, draft.base, draft.token_ids) == ("s", 3, WHOLE[:6])
        assert len(draft.confidences) == 6
        assert await silent(peer)


async def test_a_commit_that_agrees_moves_the_window_on() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC)
        await peer.hear(Draft)
        peer.say(Commit("s", 3, WHOLE[:4]))
        assert await peer.hear(Draft) == more(7, WHOLE[4:6], WHOLE[6:10])


async def test_a_commit_that_disagrees_starts_the_path_anew() -> None:
    other = (WHOLE[1] + 1) % VOCAB
    async with serving() as (_, peer):
        peer.say(SPEC)
        await peer.hear(Draft)
        peer.say(Commit("s", 3, (WHOLE[0], other)))
        draft = await peer.hear(Draft)
        assert (draft.base, draft.token_ids) == (5, reference((*PROMPT, WHOLE[0], other), 6))


async def test_doubled_commits_change_nothing() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, Commit("s", 3, WHOLE[:2]))
        assert (await peer.hear(Draft)).base == 5
        peer.say(Commit("s", 3, WHOLE[:2]), Commit("s", 3, WHOLE[:1]))
        assert await silent(peer)
        peer.say(Commit("s", 3, WHOLE[:4]))
        assert (await peer.hear(Draft)).base == 7


async def test_it_drafts_under_the_sessions_own_law() -> None:
    law = SamplingParams(temperature=0.9, top_p=0.95, seed=11)
    async with serving() as (_, peer):
        peer.say(replace(SPEC, sampling=law))
        assert (await peer.hear(Draft)).token_ids == reference(PROMPT, 6, sampling=law)


async def test_many_sessions_are_drafted_for_together() -> None:
    calls: list[int] = []

    class Counting(SyntheticDrafter):
        def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
            calls.append(len(jobs))
            return super().extend(jobs)

    specs = [replace(SPEC, session=f"s{index}", context=(index, 2, 3)) for index in range(8)]
    async with serving(Counting(8, replace(SYNTHETIC, agreement=1.0))) as (_, peer):
        peer.say(*specs)
        drafts = [await peer.hear(Draft) for _ in specs]
    assert {draft.session: draft.token_ids for draft in drafts} == {
        spec.session: reference(spec.context, 6) for spec in specs
    }
    assert calls == [8]


async def test_nothing_is_drafted_beyond_the_credit() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, Credit("s", 5))
        assert (await peer.hear(Draft)).token_ids == WHOLE[:2]
        assert await silent(peer)
        peer.say(Credit("s", 7))
        assert await peer.hear(Draft) == more(3, WHOLE[:2], WHOLE[2:4])


async def test_nothing_is_drafted_beyond_the_end() -> None:
    async with serving() as (_, peer):
        peer.say(replace(SPEC, stops=StopRules(4)))
        assert (await peer.hear(Draft)).token_ids == WHOLE[:3]
        assert await silent(peer)


async def test_a_drafter_that_knows_nothing_says_so_once_per_position() -> None:
    class Blank(SyntheticDrafter):
        def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
            return [Guess(job.session, ()) for job in jobs]

    async with serving(Blank(8, SYNTHETIC)) as (_, peer):
        peer.say(SPEC)
        assert await peer.hear(Draft) == Draft("s", 3, ())
        assert await silent(peer)
        peer.say(Commit("s", 3, (5,)))
        assert await peer.hear(Draft) == Draft("s", 4, ())


async def test_a_random_drafter_stays_within_its_vocabulary() -> None:
    async with serving(RandomDrafter(8, VOCAB)) as (_, peer):
        peer.say(replace(SPEC, window=30))
        draft = await peer.hear(Draft)
        assert len(draft.token_ids) == 30
        assert all(0 <= token < VOCAB for token in draft.token_ids)


async def test_a_gap_between_commits_ends_the_session_so_that_it_is_opened_again() -> None:
    async with serving() as (runtime, peer):
        peer.say(SPEC)
        await peer.hear(Draft)
        peer.say(Commit("s", 5, WHOLE[2:4]))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code) == ("s", "ABORTED")
        assert "only 3 tokens are known" in refused.message
        assert runtime.num_sessions == 0
        peer.say(replace(SPEC, context=(*PROMPT, *WHOLE[:4])))
        assert (await peer.hear(Draft)).token_ids == WHOLE[4:10]


async def test_a_session_with_another_tokenizer_is_refused() -> None:
    drafter = right()
    drafter.info = replace(drafter.info, tokenizer_digest="t" * 64)
    async with serving(drafter) as (runtime, peer):
        peer.say(replace(SPEC, tokenizer_digest="o" * 64))
        refused = await peer.hear(Refused)
        assert (refused.code, refused.retryable) == ("FAILED_PRECONDITION", False)
        assert "use a drafter with the target's tokenizer" in refused.message
        assert runtime.num_sessions == 0
        peer.say(replace(SPEC, tokenizer_digest="t" * 64))
        assert (await peer.hear(Draft)).token_ids == WHOLE[:6]


@pytest.mark.parametrize("spec", [replace(SPEC, context=()), replace(SPEC, prompt_length=9)])
async def test_a_session_without_sense_is_refused(spec: SessionSpec) -> None:
    async with serving() as (runtime, peer):
        peer.say(spec)
        assert (await peer.hear(Refused)).code == "INVALID_ARGUMENT"
        assert runtime.num_sessions == 0


async def test_a_session_that_closes_before_it_was_opened_is_never_opened() -> None:
    drafter = right()
    async with serving(drafter) as (runtime, peer):
        peer.say(SPEC, Close("s"))
        await settle()
        assert (runtime.num_sessions, set(drafter._specs)) == (0, set())


async def test_a_full_drafter_refuses_until_there_is_room() -> None:
    async with serving(right(max_sessions=2)) as (_, peer):
        peer.say(*(replace(SPEC, session=name) for name in "abc"))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("c", "RESOURCE_EXHAUSTED", True)
        assert refused.message == "All 2 sessions are taken; try another drafter."
        peer.say(Close("a"), replace(SPEC, session="c"))
        while (await peer.hear(Draft)).session != "c":
            pass


async def test_a_session_can_not_be_opened_twice_on_one_stream() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, SPEC)
        assert (await peer.hear(Refused)).code == "ALREADY_EXISTS"
        assert (await peer.hear(Draft)).token_ids == WHOLE[:6]


async def test_a_new_stream_takes_a_session_over_from_one_that_nobody_noticed_was_lost() -> None:
    async with serving() as (runtime, former):
        former.say(SPEC)
        await former.hear(Draft)
        peer: DrafterPeer = DrafterPeer(runtime)
        peer.say(replace(SPEC, context=(*PROMPT, *WHOLE[:2])))
        assert (await peer.hear(Draft)).token_ids == WHOLE[2:8]
        former.say(Commit("s", 3, WHOLE[:6]), Close("s"))
        await settle()
        assert runtime.num_sessions == 1
        await peer.vanish()
        assert runtime.num_sessions == 0


async def test_sessions_of_a_peer_that_leaves_are_closed_and_others_go_on() -> None:
    drafter = right()
    async with serving(drafter) as (runtime, peer):
        others: list[DrafterPeer] = [DrafterPeer(runtime) for _ in range(2)]
        peer.say(SPEC)
        for name, other in zip("ab", others, strict=True):
            other.say(replace(SPEC, session=name))
            await other.hear(Draft)
        await others[0].leave()
        await others[1].vanish()
        assert runtime.num_sessions == 1
        await settle()
        assert set(drafter._specs) == {"s"}
        peer.say(Commit("s", 3, WHOLE[:4]))
        while (draft := await peer.hear(Draft)).base != 7:
            pass
        assert draft == more(7, WHOLE[4:6], WHOLE[6:10])


async def test_a_draining_drafter_goes_on_with_what_it_has_and_takes_nothing_new() -> None:
    async with serving() as (runtime, peer):
        peer.say(SPEC)
        await peer.hear(Draft)
        runtime.drain("shutting down")
        assert await peer.hear(Drain) == Drain("shutting down")
        peer.say(replace(SPEC, session="new"), Commit("s", 3, WHOLE[:4]))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("new", "UNAVAILABLE", True)
        assert (await peer.hear(Draft)).base == 7
        late: DrafterPeer = DrafterPeer(runtime)
        assert await late.hear(Drain) == Drain("shutting down")
        await late.vanish()


async def test_a_drafter_that_fails_ends_and_sends_its_sessions_elsewhere() -> None:
    class Failing(SyntheticDrafter):
        def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
            raise RuntimeError("the device is gone")

    runtime = make_runtime(Failing(8, SYNTHETIC), InlineWorker())
    running = asyncio.ensure_future(runtime.run())
    peer: DrafterPeer = DrafterPeer(runtime)
    peer.say(SPEC)
    refused = await peer.hear(Refused)
    assert (refused.session, refused.code, refused.retryable) == ("s", "UNAVAILABLE", True)
    with pytest.raises(RuntimeError, match="the device is gone"):
        await running
    await peer.vanish()


async def test_a_session_whose_opening_fails_costs_nobody_else_anything() -> None:
    class Picky(SyntheticDrafter):
        def open(self, spec: SessionSpec) -> None:
            super().open(spec)
            if spec.session == "poison":
                raise ZeroDivisionError

    drafter = Picky(8, replace(SYNTHETIC, agreement=1.0))
    async with serving(drafter) as (runtime, peer):
        peer.say(replace(SPEC, session="poison"), SPEC)
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("poison", "INTERNAL", False)
        assert (await peer.hear(Draft)).token_ids == WHOLE[:6]
        assert (runtime.num_sessions, set(drafter._specs)) == (1, {"s"})


class Slow(SyntheticDrafter):
    """Writes down what it is asked for; opening and extending wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__(8, replace(SYNTHETIC, agreement=1.0))
        self.log: list[str] = []
        self.entered = threading.Semaphore(0)
        self.may_go = threading.Semaphore(0)
        self.fails = False
        """Openings that begin now."""

    def open(self, spec: SessionSpec) -> None:
        fails = self.fails
        self._stop(f"open {spec.session}")
        if fails:
            raise ResourceExhausted("All slots are taken.")
        super().open(spec)

    def close(self, session: str) -> None:
        self.log.append(f"close {session}")
        super().close(session)

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self._stop("extend " + " ".join(job.session for job in jobs))
        return super().extend(jobs)

    def _stop(self, what: str) -> None:
        self.log.append(what)
        self.entered.release()
        self.may_go.acquire()


async def entered(drafter: Slow) -> None:
    assert await asyncio.to_thread(drafter.entered.acquire, timeout=60.0)


async def released(drafter: Slow, num_calls: int) -> None:
    for _ in range(num_calls):
        drafter.may_go.release()
        await entered(drafter)


@asynccontextmanager
async def slowly() -> AsyncIterator[tuple[Slow, DrafterRuntime, DrafterPeer]]:
    """In the runtime's own worker thread."""
    drafter = Slow()
    runtime = make_runtime(drafter)
    running = asyncio.ensure_future(runtime.run())
    peer: DrafterPeer = DrafterPeer(runtime)
    try:
        yield drafter, runtime, peer
    finally:
        await peer.vanish()
        running.cancel()
        drafter.may_go.release(100)
        await asyncio.wait((running,))


async def test_a_session_that_closes_while_it_is_being_opened_is_closed_after_that() -> None:
    async with slowly() as (drafter, runtime, peer):
        peer.say(SPEC)
        await entered(drafter)
        peer.say(Close("s"), replace(SPEC, session="next"))
        await settle()
        assert runtime.num_sessions == 1
        await released(drafter, 1)
        assert drafter.log == ["open s", "close s", "open next"]


async def test_a_session_that_opens_again_is_not_blamed_for_its_former_opening() -> None:
    async with slowly() as (drafter, runtime, peer):
        drafter.fails = True
        peer.say(SPEC)
        await entered(drafter)
        peer.say(Close("s"), SPEC)
        await settle()
        drafter.fails = False
        await released(drafter, 2)
        drafter.may_go.release()
        assert (await peer.hear(Draft | Refused)) == Draft("s", 3, WHOLE[:6], (1.0,) * 6)
        assert runtime.num_sessions == 1


async def test_a_session_that_closes_while_it_is_drafted_for_gets_no_draft() -> None:
    async with slowly() as (drafter, _, peer):
        peer.say(SPEC)
        await entered(drafter)
        await released(drafter, 1)
        peer.say(Close("s"), replace(SPEC, session="next"))
        await settle()
        await released(drafter, 1)
        assert drafter.log == ["open s", "extend s", "close s", "open next"]
        await released(drafter, 1)
        drafter.may_go.release()
        assert (await peer.hear(Draft)).session == "next"


async def test_a_session_may_open_again_under_its_id_while_its_former_draft_is_made() -> None:
    async with slowly() as (drafter, runtime, peer):
        peer.say(SPEC)
        await entered(drafter)
        await released(drafter, 1)
        peer.say(Close("s"), replace(SPEC, context=(*PROMPT, *WHOLE[:2])))
        await settle()
        assert runtime.num_sessions == 1
        await released(drafter, 2)
        assert drafter.log == ["open s", "extend s", "close s", "open s", "extend s"]
        drafter.may_go.release()
        draft = await peer.hear(Draft)
        assert (draft.base, draft.token_ids) == (5, WHOLE[2:8])


async def test_commits_that_overtake_a_draft_leave_of_it_what_still_agrees() -> None:
    async with slowly() as (drafter, _, peer):
        peer.say(SPEC)
        await entered(drafter)
        await released(drafter, 1)
        peer.say(Commit("s", 3, WHOLE[:2]))
        await settle()
        drafter.may_go.release()
        draft = await peer.hear(Draft)
        assert (draft.base, draft.token_ids) == (5, WHOLE[2:6])


async def test_an_answer_to_what_a_peer_never_opened_is_none() -> None:
    async with serving() as (runtime, peer):
        peer.say(Commit("nobody", 3, (1,)), Credit("nobody", 9), Close("nobody"))
        assert await silent(peer)
        assert runtime.num_sessions == 0
