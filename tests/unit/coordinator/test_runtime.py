"""All requests of a coordinator together: load, ids, waiting for verifiers, leaving early, draining, describing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from looptime import LoopTimeProxy

from paceline.client.aio import Completion
from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    PacelineError,
    ResourceExhausted,
    Unavailable,
)
from paceline.core.requests import FinishReason, GenerateRequest, Started
from paceline.core.types import DrafterInfo, VerifierInfo
from paceline.testing.letters import CHAT, LETTERS, letters
from paceline.testing.puppets import DrafterPuppet, VerifierPuppet
from paceline.testing.reference import reference
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import VERIFIER, LocalSystem, drafter, local_system, verifier

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)


def request(**changes: object) -> GenerateRequest:
    return replace(GenerateRequest(PROMPT, max_tokens=20), **changes)


def running(system: LocalSystem, wanted: GenerateRequest) -> asyncio.Task[Completion]:
    return asyncio.create_task(system.complete(wanted))


async def settle() -> None:
    """Let everything happen that takes no time."""
    await asyncio.sleep(0.0001)


async def test_more_requests_than_allowed_are_refused_until_one_has_ended() -> None:
    async with local_system(settings=CoordinatorSettings(max_requests=2)) as system:
        tasks = [running(system, request()) for _ in range(2)]
        await settle()
        with pytest.raises(ResourceExhausted, match=r"^2 requests are running already; try again in a moment\.$"):
            await system.complete(request())
        assert [(await task).token_ids for task in tasks] == [reference(PROMPT, 20)] * 2
        assert (await system.complete(request())).token_ids == reference(PROMPT, 20)


async def test_a_request_id_is_taken_while_it_runs() -> None:
    async with local_system() as system:
        first = running(system, request(request_id="mine"))
        await settle()
        with pytest.raises(Conflict, match="request_id mine is already running here"):
            await system.complete(request(request_id="mine"))
        assert (await first).token_ids == reference(PROMPT, 20)


async def test_a_request_id_is_free_as_soon_as_its_end_was_read() -> None:
    async with local_system(settings=CoordinatorSettings(max_requests=1)) as system:
        for _ in range(3):
            completion = await system.complete(request(request_id="mine"))
            assert completion.started.request_id == "mine"
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await system.complete(request(request_id="mine", deadline_s=0.05))


async def test_the_gauge_follows_the_requests() -> None:
    async with local_system() as system:

        def gauge() -> float | None:
            return system.metrics.get_sample_value("paceline_num_requests_running")

        tasks = [running(system, request(max_tokens=length)) for length in (5, 20)]
        await settle()
        assert gauge() == 2.0
        await tasks[0]
        assert gauge() == 1.0
        await tasks[1]
        assert gauge() == 0.0
        assert system.metrics.get_sample_value("paceline_request_success_total", {"finished_reason": "length"}) == 2.0


async def test_a_client_that_leaves_early_frees_everything() -> None:
    store = UnreliableStore()
    async with local_system(store=store) as system:
        events = system.generate(request(max_tokens=200))
        started = await anext(events)
        assert isinstance(started, Started)
        await anext(events)
        assert [party.num_sessions for party in system.parties] == [1, 1]
        await events.aclose()
        await settle()
        assert [party.num_sessions for party in system.parties] == [0, 0]
        assert system.coordinator.num_requests == 0
        record = await store.read(started.session)
        assert (record.state, record.reason) == ("C", "The client went away.")
        assert len(system.around.verifiers._listeners) == len(system.around.drafters._listeners) == 0


async def test_a_client_task_that_is_cancelled_frees_everything() -> None:
    async with local_system() as system:
        task = running(system, request(max_tokens=200))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait((task,))
        await settle()
        assert [party.num_sessions for party in system.parties] == [0, 0]
        assert system.coordinator.num_requests == 0


async def test_without_a_verifier_a_request_waits_a_while_and_is_told_why(looptime: LoopTimeProxy) -> None:
    async with local_system([verifier()] * 2) as system:
        for party in system.verifiers:
            party.kill()
        await system.wait_healthy(0, 1)
        before = float(looptime)
        with pytest.raises(Unavailable, match=r"^No verifier is up \(Can't reach verifier-0: .*; Can't reach ") as why:
            await system.complete(request())
        assert str(why.value).endswith("Start one, or check the addresses.")
        assert float(looptime) - before == pytest.approx(10.0, abs=0.01)


async def test_a_request_without_a_verifier_waits_no_longer_than_its_deadline(looptime: LoopTimeProxy) -> None:
    async with local_system(()) as system:
        with pytest.raises(Unavailable, match=r"^No verifier is up \(none is configured\)\."):
            await system.complete(request(deadline_s=0.5))
        assert float(looptime) == pytest.approx(0.5, abs=0.01)


async def test_requests_that_gave_up_waiting_leave_nothing_in_the_pool() -> None:
    async with local_system([verifier()]) as system:
        system.verifiers[0].kill()
        await system.wait_healthy(0, 1)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await system.complete(request(deadline_s=0.01))
        assert len(system.around.verifiers._listeners) == 0


async def test_a_verifier_that_comes_up_in_time_serves_those_who_waited(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        system.verifiers[0].kill()
        await system.wait_healthy(0, 1)
        waiting = running(system, request())
        await asyncio.sleep(5.0)
        system.verifiers[0].start()
        assert (await waiting).token_ids == reference(PROMPT, 20)
        assert looptime < 7.0


async def test_waiting_for_a_verifier_is_part_of_the_requests_time(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        system.verifiers[0].kill()
        await system.wait_healthy(0, 1)
        before = float(looptime)
        waiting = running(system, request(max_tokens=900, deadline_s=4.0))
        await asyncio.sleep(2.0)
        system.verifiers[0].start()
        with pytest.raises(DeadlineExceeded):
            await waiting
        assert float(looptime) - before == pytest.approx(4.0, abs=0.01)


async def test_the_times_of_a_request_begin_with_its_arrival() -> None:
    async with local_system() as system:
        system.verifiers[0].kill()
        await system.wait_healthy(0, 1)
        waiting = running(system, request(max_tokens=1))
        await asyncio.sleep(2.0)
        system.verifiers[0].start()
        finished = (await waiting).finished
        assert finished.total_s >= finished.first_token_s > 2.0


async def test_a_draining_coordinator_lets_requests_end_and_takes_no_new_ones() -> None:
    async with local_system() as system:
        first = running(system, request())
        await settle()
        draining = asyncio.create_task(system.coordinator.drain(grace_s=60.0))
        await settle()
        with pytest.raises(Unavailable, match="not serving"):
            await system.complete(request())
        assert not draining.done()
        assert (await first).token_ids == reference(PROMPT, 20)
        await draining


async def test_requests_that_outlast_the_grace_end_with_an_error_that_says_where_to_go(
    looptime: LoopTimeProxy,
) -> None:
    store = UnreliableStore()
    async with local_system(store=store) as system:
        events = system.generate(request(max_tokens=900))
        started = await anext(events)
        assert isinstance(started, Started)
        await system.coordinator.drain(grace_s=1.0)
        assert float(looptime) == pytest.approx(1.0, abs=0.01)
        assert system.coordinator.num_requests == 0
        assert [party.num_sessions for party in system.parties] == [0, 0]
        with pytest.raises(Unavailable, match="shutting down; send the request to another one"):
            [event async for event in events]
        assert (await store.read(started.session)).state == "C"


async def test_draining_does_not_wait_for_a_store_that_is_away(looptime: LoopTimeProxy) -> None:
    store = UnreliableStore()
    async with local_system(store=store) as system:
        task = running(system, request(max_tokens=900))
        await asyncio.sleep(0.1)
        store.is_away = True
        await system.coordinator.drain(grace_s=1.0)
        assert looptime < 1.5
        with pytest.raises(Unavailable, match="shutting down"):
            await task


async def test_draining_an_idle_coordinator_takes_no_time(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        await system.coordinator.drain(grace_s=60.0)
        assert looptime == 0


async def test_a_coordinator_that_has_stopped_takes_no_requests() -> None:
    async with local_system() as system:
        pass
    with pytest.raises(Unavailable, match="not serving"):
        await system.complete(request())
    assert system.coordinator.num_requests == 0


async def test_being_ready_means_that_a_verifier_is_up() -> None:
    async with local_system([verifier()], ()) as system:
        await system.coordinator.wait_ready()
        system.verifiers[0].kill()
        await system.wait_healthy(0, 0)
        waiting = asyncio.create_task(system.coordinator.wait_ready())
        await asyncio.sleep(3.0)
        assert not waiting.done()
        system.verifiers[0].start()
        await waiting
        stop = asyncio.Event()
        stop.set()
        system.verifiers[0].kill()
        await system.wait_healthy(0, 0)
        await system.coordinator.wait_ready(unless=stop)
        await settle()
        assert len(system.around.verifiers._listeners) == 0


async def test_describe_shows_pools_store_and_template() -> None:
    async with local_system([verifier()] * 2, tokenizer=letters(CHAT), store=UnreliableStore()) as system:
        events = system.generate(request(max_tokens=200))
        await anext(events)
        await anext(events)
        info = system.coordinator.describe()
        await events.aclose()
    assert [member.address for member in info.verifiers] == ["verifier-0", "verifier-1"]
    assert [(member.healthy, member.sessions) for member in info.verifiers] == [(True, 1), (True, 0)]
    assert [(member.healthy, member.sessions) for member in info.drafters] == [(True, 1)]
    assert isinstance(info.verifiers[0].info, VerifierInfo)
    assert isinstance(info.drafters[0].info, DrafterInfo)
    assert (info.store, info.has_chat_template) == ("unreliable:", True)


TARGET = VerifierInfo("target", "model", "t" * 64, "numerics", len(LETTERS), max_context=1000, max_sessions=4)


async def test_describe_says_why_a_drafter_is_not_used() -> None:
    helper = DrafterInfo("helper", tokenizer_digest="o" * 64, vocab_size=len(LETTERS))
    async with local_system(
        [lambda clock: VerifierPuppet(TARGET)], [lambda clock: DrafterPuppet(helper), drafter()]
    ) as system:
        wrong, right = system.coordinator.describe().drafters
    assert (wrong.healthy, wrong.info) == (False, helper)
    assert wrong.detail == (
        "Drafter helper has tokenizer oooooooooooo, verifier target tttttttttttt; "
        "use a drafter with the target's tokenizer."
    )
    assert (right.healthy, right.detail) == (True, "")


async def test_a_drafter_that_fits_one_of_the_verifiers_is_healthy() -> None:
    helper = DrafterInfo("helper", tokenizer_digest="t" * 64, vocab_size=len(LETTERS))
    other = replace(TARGET, tokenizer_digest="o" * 64)
    async with local_system(
        [lambda clock: VerifierPuppet(other), lambda clock: VerifierPuppet(TARGET)],
        [lambda clock: DrafterPuppet(helper)],
    ) as system:
        assert system.coordinator.describe().drafters[0].healthy


async def test_without_verifiers_nobody_knows_whether_a_drafter_fits() -> None:
    async with local_system(()) as system:
        assert system.coordinator.describe().drafters[0].healthy


async def test_sessions_are_spread_over_the_verifiers() -> None:
    async with local_system([verifier()] * 3) as system:
        tasks = [running(system, request()) for _ in range(6)]
        await settle()
        assert [party.num_sessions for party in system.verifiers] == [2, 2, 2]
        for task in tasks:
            await task


async def test_requests_that_find_all_slots_taken_are_served_when_some_are_free() -> None:
    async with local_system([verifier(replace(VERIFIER, max_sessions=2))]) as system:
        tasks = [running(system, request(max_tokens=20 + index)) for index in range(6)]
        await settle()
        assert system.verifiers[0].num_sessions == 2
        for index, task in enumerate(tasks):
            assert (await task).token_ids == reference(PROMPT, 20 + index)


async def test_bad_requests_are_refused_by_code_and_leave_nothing() -> None:
    async with local_system() as system:
        bad = {
            InvalidRequest: request(max_tokens=0),
            PacelineError: request(prompt="text"),
        }
        for kind, one in bad.items():
            with pytest.raises(kind):
                await system.complete(one)
        assert system.coordinator.num_requests == 0
        assert [party.num_sessions for party in system.parties] == [0, 0]


async def test_a_finish_reason_tells_a_stop_id_from_a_full_output() -> None:
    token = reference(PROMPT, 20)[6]
    async with local_system() as system:
        stopped = await system.complete(request(stop_token_ids=(token,)))
        full = await system.complete(request())
    assert stopped.token_ids == reference(PROMPT, 20, stop_token_ids=(token,))
    assert (stopped.finished.reason, full.finished.reason) == (FinishReason.STOP, FinishReason.LENGTH)
