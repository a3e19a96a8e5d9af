"""A session between puppets: what it says to whom, and what its client and its store get to see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from looptime import LoopTimeProxy

from paceline.client.aio import Completion, collect
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import Cancelled, DeadlineExceeded, Diverged, Fenced, InvalidRequest
from paceline.core.requests import Chunk, DraftMode, Finished, GenerateEvent, GenerateRequest, Started, Usage
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterInfo,
    FeatureFrame,
    FinishReason,
    KvFrame,
    KvShape,
    Needs,
    Pace,
    Refused,
    SessionSpec,
    Tap,
    Tokens,
    VerifierInfo,
)
from paceline.testing.letters import LETTERS, letters
from paceline.testing.puppets import DrafterPuppet, VerifierPuppet
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import LocalSystem, local_system

pytestmark = pytest.mark.looptime
INFO = VerifierInfo(
    "target",
    "model",
    "",
    "numerics",
    len(LETTERS),
    max_context=1000,
    max_sessions=4,
    num_layers=6,
    hidden_size=2,
    kv=(KvShape("full_attention", 1, 2),),
)
PROMPT = (1, 2, 3)
REQUEST = GenerateRequest(PROMPT, request_id="r1", max_tokens=8, seed=7)


@dataclass
class Stage:
    system: LocalSystem
    verifier: VerifierPuppet
    drafter: DrafterPuppet
    store: UnreliableStore
    spec: SessionSpec
    """What the verifier was asked to open."""
    events: AsyncGenerator[GenerateEvent]
    """Of the request, after Started."""

    def commit(self, start: int, *tokens: int, finish: FinishReason | None = None) -> Commit:
        commit = Commit(self.spec.session, start, tokens, finish=finish)
        self.verifier.say(commit)
        return commit

    async def rest(self) -> Completion:
        async def all_events() -> AsyncGenerator[GenerateEvent]:
            yield Started("r1", self.spec.session, 3, 7, "numerics")
            async for event in self.events:
                yield event

        return await collect(all_events())

    async def stored(self) -> tuple[str, Tokens]:
        record = await self.store.read(self.spec.session)
        return record.state, record.tokens

    def count(self, metric: str, **labels: str) -> float | None:
        return self.system.metrics.get_sample_value(metric, labels)


@asynccontextmanager
async def staged(
    request: GenerateRequest = REQUEST,
    settings: CoordinatorSettings | None = None,
    num_verifiers: int = 1,
    needs: Needs | None = None,
) -> AsyncIterator[Stage]:
    """A request that was opened at one verifier and one drafter; with two verifiers, they speak as one."""
    store, verifier = UnreliableStore(), VerifierPuppet(INFO)
    drafter = DrafterPuppet(DrafterInfo("helper", vocab_size=len(LETTERS), needs=needs or Needs()))
    async with local_system(
        [lambda clock: verifier] * num_verifiers,
        [lambda clock: drafter],
        settings=settings,
        store=store,
        tokenizer=letters(),
    ) as system:
        await settle()
        events = system.generate(request)
        assert isinstance(await anext(events), Started)
        spec = await verifier.hear(SessionSpec)
        yield Stage(system, verifier, drafter, store, spec, events)


async def settle() -> None:
    """Let everything happen that takes no time."""
    await asyncio.sleep(0.0001)


def ids(text: str) -> Tokens:
    return tuple(LETTERS.index(letter) for letter in text)


async def test_verifier_and_drafter_are_told_all_that_they_must_know() -> None:
    request = GenerateRequest(PROMPT, max_tokens=8, seed=7, max_draft=20, min_draft=3, deadline_s=30.0)
    async with staged(request) as stage:
        spec = stage.spec
        assert (spec.context, spec.prompt_length) == (PROMPT, 3)
        assert (spec.sampling.seed, spec.stops.max_tokens) == (7, 8)
        assert (spec.min_draft, spec.max_draft, spec.window) == (3, 20, 20)
        assert (spec.numerics_id, spec.deadline_s) == ("numerics", pytest.approx(30.0, abs=0.001))
        told = await stage.drafter.hear(SessionSpec)
        assert told == replace(spec, pace=Pace.LOOKAHEAD)


async def test_a_verifier_learns_on_whose_behalf_and_a_drafter_does_not() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, tenant="acme")) as stage:
        assert stage.spec.tenant == "acme"
        assert (await stage.drafter.hear(SessionSpec)).tenant == ""


async def test_a_commit_goes_on_to_the_drafter_without_waiting_for_the_store() -> None:
    async with staged() as stage:
        stage.store.is_away = True
        commit = stage.commit(3, 5, 6)
        assert await stage.drafter.hear(Commit) == commit


async def test_the_client_sees_nothing_that_the_store_does_not_have() -> None:
    async with staged() as stage:
        stage.store.is_away = True
        stage.commit(3, 5, 6)
        reading = asyncio.ensure_future(anext(stage.events))
        await asyncio.sleep(2.0)
        assert not reading.done()
        stage.commit(5, 7)
        stage.store.is_away = False
        assert await reading == Chunk(0, (5, 6, 7), "fgh")
        assert await stage.stored() == ("A", (5, 6, 7))


async def test_drafts_go_to_the_verifier_and_only_those_of_the_session() -> None:
    async with staged() as stage:
        await stage.drafter.hear(SessionSpec)
        stage.drafter.say(Draft("somebody-else", 3, (9,)), Draft(stage.spec.session, 3, (5, 6)))
        assert await stage.verifier.hear(Draft) == Draft(stage.spec.session, 3, (5, 6))


async def test_a_request_ends_with_its_usage_its_reason_and_both_members_free() -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        stage.commit(5, 7, finish=FinishReason.LENGTH)
        completion = await stage.rest()
        assert (completion.token_ids, completion.text) == ((5, 6, 7), "fgh")
        assert completion.finished.reason is FinishReason.LENGTH
        assert completion.finished.usage == Usage(3, 3)
        assert completion.finished.speculative.num_steps == 2
        assert await stage.stored() == ("D", (5, 6, 7))
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)
        assert await stage.drafter.hear(Close) == Close(stage.spec.session)


async def test_a_late_commit_changes_nothing() -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        stage.commit(4, 6)
        stage.commit(3, 5, 6)
        stage.commit(5, 7, finish=FinishReason.LENGTH)
        assert (await stage.rest()).token_ids == (5, 6, 7)


async def test_a_commit_behind_a_gap_makes_the_session_open_again_where_it_is() -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        stage.commit(7, 9)
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)
        again = await stage.verifier.hear(SessionSpec)
        assert again.context == (*PROMPT, 5, 6)
        stage.commit(5, 7, finish=FinishReason.LENGTH)
        assert (await stage.rest()).token_ids == (5, 6, 7)
        assert stage.count("paceline_fallbacks_total", cause="verifier") == 1.0


async def test_a_lost_verifier_is_replaced_by_another_that_is_told_all_tokens_so_far() -> None:
    async with staged(num_verifiers=2) as stage:
        stage.commit(3, 5, 6)
        stage.commit(5, 7)
        await settle()
        stage.system.verifiers[0].kill()
        again = await stage.verifier.hear(SessionSpec)
        assert (again.session, again.context, again.prompt_length) == (stage.spec.session, (*PROMPT, 5, 6, 7), 3)
        stage.commit(6, 8, finish=FinishReason.LENGTH)
        assert (await stage.rest()).token_ids == (5, 6, 7, 8)


async def test_a_session_that_moves_brings_only_the_time_that_is_left() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, deadline_s=30.0), num_verifiers=2) as stage:
        await asyncio.sleep(12.0)
        stage.system.verifiers[0].kill()
        assert (await stage.verifier.hear(SessionSpec)).deadline_s == pytest.approx(18.0, abs=0.001)


async def test_a_session_waits_for_a_verifier_with_its_numerics_and_takes_no_other() -> None:
    async with staged() as stage:
        stage.system.verifiers[0].kill()
        stage.verifier.info = VerifierInfo("other", "model", "", "other numerics", len(LETTERS), 1000, 4)
        stage.system.verifiers[0].start()
        await stage.system.wait_healthy(1, 1)
        await asyncio.sleep(5.0)
        stage.system.verifiers[0].kill()
        stage.verifier.info = INFO
        stage.system.verifiers[0].start()
        assert (await stage.verifier.hear(SessionSpec)).deadline_s < 600.0 - 5.0


async def test_a_drafter_that_comes_back_is_told_all_tokens_so_far() -> None:
    async with staged() as stage:
        await stage.drafter.hear(SessionSpec)
        stage.commit(3, 5, 6)
        await settle()
        stage.system.drafters[0].kill()
        stage.commit(5, 7)
        await settle()
        stage.system.drafters[0].start()
        assert (await stage.drafter.hear(SessionSpec)).context == (*PROMPT, 5, 6, 7)
        assert stage.count("paceline_fallbacks_total", cause="drafter") == 1.0


async def test_a_drafter_that_refuses_is_asked_again_later_and_nobody_waits_for_it() -> None:
    async with staged() as stage:
        refusal = Refused(stage.spec.session, "ABORTED", "Tokens are missing.", retryable=False)
        for _ in range(3):
            await stage.drafter.hear(SessionSpec)
            stage.drafter.say(refusal)
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        assert (await stage.rest()).token_ids == (5,)


async def test_plain_requests_never_reach_a_drafter() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, mode=DraftMode.PLAIN)) as stage:
        assert stage.spec.max_draft == 0
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        await stage.rest()
        listening = asyncio.ensure_future(stage.drafter.hear(object))
        await settle()
        assert not listening.done()
        listening.cancel()


async def test_a_drafter_is_told_when_to_go_on_and_a_verifier_is_not() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, mode=DraftMode.LOOKAHEAD)) as stage:
        told = await stage.drafter.hear(SessionSpec)
        assert (told.pace, stage.spec.pace) == (Pace.LOOKAHEAD, Pace.PIPELINE)
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        await stage.rest()


async def test_colocated_requests_never_reach_a_drafter_and_yet_have_drafts_checked() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, max_draft=8, mode=DraftMode.COLOCATED)) as stage:
        assert stage.spec.max_draft == 8
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        await stage.rest()
        listening = asyncio.ensure_future(stage.drafter.hear(object))
        await settle()
        assert not listening.done()
        listening.cancel()


async def test_a_stop_string_inside_accepted_drafts_ends_everything_where_it_ends() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=50, stop=("fg",), request_id="r1")) as stage:
        stage.commit(3, *ids("abc"))
        stage.commit(6, *ids("defghij"))
        stage.commit(13, *ids("klm"))
        completion = await stage.rest()
        assert (completion.text, completion.token_ids) == ("abcde", ids("abcdefg"))
        assert completion.finished.reason is FinishReason.STOP
        assert completion.finished.usage == Usage(3, 7)
        assert await stage.stored() == ("D", ids("abcdefg"))
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)


async def test_a_session_that_has_ended_frees_its_members_without_waiting_for_the_store(
    looptime: LoopTimeProxy,
) -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=50, stop=("fg",))) as stage:
        stage.store.is_away = True
        stage.commit(3, *ids("defghij"))
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)
        assert await stage.drafter.hear(Close) == Close(stage.spec.session)
        assert looptime < 0.01
        again = [asyncio.ensure_future(member.hear(SessionSpec)) for member in (stage.verifier, stage.drafter)]
        await asyncio.sleep(5.0)
        assert [one.done() for one in again] == [False, False]
        for one in again:
            one.cancel()


async def test_text_that_may_begin_a_stop_string_is_held_back_but_its_tokens_are_not() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=50, stop=("cde",))) as stage:
        stage.commit(3, *ids("abcd"))
        assert await anext(stage.events) == Chunk(0, ids("abcd"), "ab")
        stage.commit(7, *ids("x"))
        assert await anext(stage.events) == Chunk(4, ids("x"), "cdx")


async def test_cancelling_ends_the_session_everywhere_at_once(looptime: LoopTimeProxy) -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        await settle()
        assert stage.system.coordinator.cancel("r1")
        completion = await stage.rest()
        assert completion.token_ids == (5, 6)
        assert completion.finished.reason is FinishReason.CANCELLED
        assert completion.finished.usage == Usage(3, 2)
        record = await stage.store.read(stage.spec.session)
        assert (record.state, record.reason) == ("C", "Cancelled by the client.")
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)
        assert await stage.drafter.hear(Close) == Close(stage.spec.session)
        assert looptime < 0.001


async def test_commits_that_come_after_a_cancellation_are_dropped() -> None:
    async with staged() as stage:
        assert stage.system.coordinator.cancel("r1")
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        completion = await stage.rest()
        assert (completion.token_ids, completion.finished.reason) == ((), FinishReason.CANCELLED)
        assert completion.finished.usage == Usage(3, 0)


async def test_only_the_first_cancellation_counts_and_none_after_the_end() -> None:
    async with staged() as stage:
        cancel = stage.system.coordinator.cancel
        assert not cancel("somebody else's")
        assert [cancel("r1"), cancel("r1")] == [True, False]
        await stage.rest()
        assert not cancel("r1")


async def test_a_session_whose_last_tokens_are_being_written_is_not_cancelled_any_more() -> None:
    async with staged() as stage:
        stage.store.is_away = True
        stage.commit(3, 5, finish=FinishReason.LENGTH)
        await settle()
        assert not stage.system.coordinator.cancel("r1")
        stage.store.is_away = False
        assert (await stage.rest()).finished.reason is FinishReason.LENGTH


async def test_cancelling_does_not_wait_for_a_store_that_is_away(looptime: LoopTimeProxy) -> None:
    async with staged() as stage:
        stage.store.is_away = True
        stage.commit(3, 5, 6)
        await asyncio.sleep(10.0)
        assert stage.system.coordinator.cancel("r1")
        completion = await stage.rest()
        assert (completion.token_ids, completion.finished.reason) == ((), FinishReason.CANCELLED)
        assert completion.finished.usage == Usage(3, 0)
        assert float(looptime) == pytest.approx(10.0, abs=0.01)
        assert stage.system.coordinator.num_requests == 0


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNIMPLEMENTED", "INTERNAL"])
async def test_a_refusal_for_good_reaches_the_client_as_it_is(code: str) -> None:
    async with staged() as stage:
        stage.verifier.say(Refused(stage.spec.session, code, "min_p: not with me.", retryable=False))
        with pytest.raises(Exception, match=r"^min_p: not with me\.$") as failure:
            await stage.rest()
        assert getattr(failure.value, "code", "") == code
        record = await stage.store.read(stage.spec.session)
        assert (record.state, record.reason) == ("C", f"{code}: min_p: not with me.")
        assert await stage.drafter.hear(Close) == Close(stage.spec.session)


async def test_a_verifier_that_keeps_refusing_is_asked_in_growing_pauses_until_the_deadline(
    looptime: LoopTimeProxy,
) -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, deadline_s=20.0)) as stage:
        openings = 1

        async def refuse() -> None:
            nonlocal openings
            while True:
                stage.verifier.say(Refused(stage.spec.session, "RESOURCE_EXHAUSTED", "All slots are taken.", True))
                await stage.verifier.hear(SessionSpec)
                openings += 1

        refusing = asyncio.ensure_future(refuse())
        with pytest.raises(DeadlineExceeded) as failure:
            await stage.rest()
        refusing.cancel()
        assert str(failure.value) == (
            "The request took longer than 20 s, lastly without a verifier (All slots are taken.); start one."
        )
        assert float(looptime) == pytest.approx(20.0, abs=0.01)
        assert openings == 15  # after 0.05, 0.15, 0.35, 0.75, 1.55, 3.15 s, then every 2 s
        assert (await stage.stored())[0] == "C"


async def test_a_request_without_a_verifier_says_at_its_deadline_why_there_is_none() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, deadline_s=3.0)) as stage:
        stage.commit(3, 5)
        await settle()
        stage.system.verifiers[0].kill()
        assert await anext(stage.events) == Chunk(0, (5,), "f")
        with pytest.raises(DeadlineExceeded, match=r"3 s, lastly without a verifier \(Can't reach verifier"):
            await anext(stage.events)
        record = await stage.store.read(stage.spec.session)
        assert (record.state, record.tokens) == ("C", (5,))
        assert record.reason.startswith("DEADLINE_EXCEEDED: The request took longer than 3 s")


async def test_a_request_whose_store_is_away_says_so_at_its_deadline(looptime: LoopTimeProxy) -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, deadline_s=3.0)) as stage:
        stage.store.is_away = True
        stage.commit(3, 5)
        with pytest.raises(DeadlineExceeded, match="lastly waiting for the session store; check that it is up"):
            await stage.rest()
        assert float(looptime) == pytest.approx(3.0, abs=0.01)


async def test_a_request_that_is_merely_slow_is_told_to_ask_for_less() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, deadline_s=3.0)) as stage:
        with pytest.raises(DeadlineExceeded, match=r"longer than 3 s; ask for less or allow more time\.$"):
            await stage.rest()
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)
        assert stage.count("paceline_request_success_total", finished_reason="error") == 1.0


async def test_a_session_that_another_coordinator_took_over_is_left_to_it() -> None:
    async with staged() as stage:
        stage.store.take_over(stage.spec.session)
        stage.commit(3, 5)
        with pytest.raises(Fenced):
            await stage.rest()
        assert await stage.stored() == ("A", ())
        assert await stage.verifier.hear(Close) == Close(stage.spec.session)


async def test_tokens_that_differ_from_the_stores_are_an_alarm_for_the_client_too() -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        await anext(stage.events)
        stage.store.rewrite(stage.spec.session, (5, 9))
        stage.store.lose_tokens(stage.spec.session, 1)
        stage.store.rewrite(stage.spec.session, (9,))
        stage.commit(5, 7)
        with pytest.raises(Diverged):
            await stage.rest()
        assert await stage.stored() == ("C", (9,))


async def test_a_session_that_was_cancelled_in_the_store_ends_as_cancelled() -> None:
    async with staged() as stage:
        await stage.store.cancel(stage.spec.session, "by an operator")
        stage.commit(3, 5)
        with pytest.raises(Cancelled):
            await stage.rest()
        assert (await stage.store.read(stage.spec.session)).reason == "by an operator"


async def test_a_store_that_forgot_everything_is_filled_again_and_the_client_notices_nothing() -> None:
    async with staged() as stage:
        stage.commit(3, 5, 6)
        await anext(stage.events)
        stage.store.lose(stage.spec.session)
        stage.commit(5, 7, finish=FinishReason.LENGTH)
        assert await anext(stage.events) == Chunk(2, (7,), "h")
        await stage.rest()
        assert await stage.stored() == ("D", (5, 6, 7))


CREDIT = CoordinatorSettings(commit_credit=8)


async def test_short_outputs_need_no_credit() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=8, request_id="r1"), CREDIT) as stage:
        stage.commit(3, *range(8), finish=FinishReason.LENGTH)
        await stage.rest()
        heard = await stage.verifier.hear(object)
        assert heard == Close(stage.spec.session)


async def test_credit_moves_on_in_strides_as_the_client_reads() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=40), CREDIT) as stage:
        assert await stage.verifier.hear(Credit) == Credit(stage.spec.session, 3 + 8)
        stage.commit(3, 0, 1, 2)
        await anext(stage.events)
        stage.commit(6, 3)
        await anext(stage.events)
        assert await stage.verifier.hear(Credit) == Credit(stage.spec.session, 3 + 4 + 8)
        stage.commit(7, *range(4, 12))
        await anext(stage.events)
        assert await stage.verifier.hear(Credit) == Credit(stage.spec.session, 3 + 12 + 8)


async def test_a_client_that_does_not_read_stops_the_credit() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=40), CREDIT) as stage:
        await stage.verifier.hear(Credit)
        stage.commit(3, *range(8))
        more = asyncio.ensure_future(stage.verifier.hear(Credit))
        await asyncio.sleep(30.0)
        assert not more.done()
        await anext(stage.events)
        assert await more == Credit(stage.spec.session, 3 + 8 + 8)


async def test_another_verifier_gets_the_credit_that_the_client_allows() -> None:
    async with staged(GenerateRequest(PROMPT, max_tokens=40), CREDIT, num_verifiers=2) as stage:
        await stage.verifier.hear(Credit)
        stage.commit(3, 0, 1, 2)
        await anext(stage.events)
        stage.commit(6, 3, 4)
        await settle()
        stage.system.verifiers[0].kill()
        await stage.verifier.hear(SessionSpec)
        assert await stage.verifier.hear(Credit) == Credit(stage.spec.session, 3 + 3 + 8)


async def test_a_store_that_is_away_at_the_start_refuses_the_request_and_nobody_hears_of_it() -> None:
    verifier = VerifierPuppet(INFO)
    store = UnreliableStore()
    async with local_system([lambda clock: verifier], (), store=store) as system:
        await settle()
        store.is_away = True
        with pytest.raises(Exception, match="store is away") as failure:
            await system.complete(REQUEST)
        assert getattr(failure.value, "code", "") == "UNAVAILABLE"
        assert store.sessions == ()
        listening = asyncio.ensure_future(verifier.hear(object))
        await settle()
        assert not listening.done()
        listening.cancel()


async def test_a_refused_request_leaves_nothing_behind() -> None:
    verifier = VerifierPuppet(INFO)
    store = UnreliableStore()
    async with local_system([lambda clock: verifier], (), store=store) as system:
        with pytest.raises(InvalidRequest):
            await system.complete(GenerateRequest((1, 999)))
        assert (store.num_calls, system.coordinator.num_requests) == (0, 0)


async def test_finished_is_the_last_event() -> None:
    async with staged() as stage:
        stage.commit(3, 5, finish=FinishReason.STOP)
        events = [event async for event in stage.events]
        assert [type(event) for event in events] == [Chunk, Finished]


FRAME = FeatureFrame(0, 3, bytes(12))
NEEDS = Needs(hidden_states=(-1,), history=5)


async def test_hidden_states_are_asked_for_behind_the_opening_and_go_to_the_drafter_alone() -> None:
    async with staged(needs=NEEDS) as stage:
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session, (-1,), 5)
        stage.verifier.say(Commit(stage.spec.session, 3, (5, 6), features=FRAME))
        assert (await stage.drafter.hear(Commit)).features == FRAME
        assert await anext(stage.events) == Chunk(0, (5, 6), "fg")


SHAPE = KvShape("full_attention", 1, 2)


async def test_keys_and_values_are_asked_for_too_and_reach_the_drafter_before_the_commit() -> None:
    async with staged(needs=replace(NEEDS, kv=(SHAPE,))) as stage:
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session, (-1,), 5, (SHAPE,))
        rows = KvFrame(stage.spec.session, SHAPE.kind, FeatureFrame(0, 4, bytes(32)))
        stage.verifier.say(rows, Commit(stage.spec.session, 3, (5, 6), features=FRAME))
        assert await stage.drafter.hear(KvFrame) == rows
        assert (await stage.drafter.hear(Commit)).features == FRAME
        stage.drafter.say(Refused(stage.spec.session, "RESOURCE_EXHAUSTED", "full", True))
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session)
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session, (-1,), 5, (SHAPE,))


async def test_a_drafter_that_works_on_tokens_gets_no_keys_and_values() -> None:
    async with staged(needs=NEEDS) as stage:
        await stage.verifier.hear(Tap)
        rows = KvFrame(stage.spec.session, SHAPE.kind, FeatureFrame(0, 4, bytes(32)))
        stage.verifier.say(rows, Commit(stage.spec.session, 3, (5, 6)))
        await stage.drafter.hear(Commit)
        stage.verifier.say(Commit(stage.spec.session, 5, (7,)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await stage.drafter.hear(KvFrame)


async def test_a_drafter_that_works_on_tokens_gets_no_hidden_states() -> None:
    async with staged() as stage:
        stage.verifier.say(Commit(stage.spec.session, 3, (5, 6), features=FRAME))
        assert (await stage.drafter.hear(Commit)).features is None
        stage.verifier.say(Refused(stage.spec.session, "UNAVAILABLE", "gone", True))
        await stage.verifier.hear(SessionSpec)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await stage.verifier.hear(Tap)


async def test_another_verifier_is_asked_for_them_too() -> None:
    async with staged(needs=NEEDS) as stage:
        await stage.verifier.hear(Tap)
        stage.verifier.say(Refused(stage.spec.session, "UNAVAILABLE", "gone", True))
        await stage.verifier.hear(SessionSpec)
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session, (-1,), 5)


async def test_a_drafter_that_goes_ends_the_tap_and_one_that_comes_begins_it_anew() -> None:
    async with staged(needs=NEEDS) as stage:
        await stage.verifier.hear(Tap)
        stage.drafter.say(Refused(stage.spec.session, "RESOURCE_EXHAUSTED", "full", True))
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session)
        assert await stage.verifier.hear(Tap) == Tap(stage.spec.session, (-1,), 5)
