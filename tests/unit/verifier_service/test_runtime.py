"""Continuous batching over the synthetic model, by hand and in virtual time: a step takes exactly 10 ms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from looptime import LoopTimeProxy
from prometheus_client import CollectorRegistry

from paceline.config.settings import VerifierSettings
from paceline.core.ports import Clock, VerifierBackend
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    Drain,
    FinishReason,
    Refused,
    Sampler,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepResult,
    StopRules,
    Tap,
    Tokens,
)
from paceline.telemetry.metrics import VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.letters import LETTERS
from paceline.testing.puppets import VerifierPeer
from paceline.testing.reference import reference
from paceline.testing.system import VERIFIER, verifier
from paceline.verifiers.synthetic import SyntheticVerifier
from verifier_service.runtime import VerifierRuntime

pytestmark = pytest.mark.looptime
STEP_S = VERIFIER.synthetic.step_base_s
VOCAB = len(LETTERS)
PROMPT = (1, 2, 3)
SPEC = SessionSpec("s", PROMPT, 3, SamplingParams(), StopRules(20), max_draft=4)


def make_runtime(
    settings: VerifierSettings = VERIFIER,
    make: Callable[[VerifierSettings, Clock], VerifierBackend] = SyntheticVerifier,
) -> VerifierRuntime:
    runtime = verifier(settings, make)(LoopClock())
    assert isinstance(runtime, VerifierRuntime)
    return runtime


@asynccontextmanager
async def serving(
    settings: VerifierSettings = VERIFIER,
    make: Callable[[VerifierSettings, Clock], VerifierBackend] = SyntheticVerifier,
) -> AsyncIterator[tuple[VerifierRuntime, VerifierPeer]]:
    """A runtime at work, and one coordinator's stream to it."""
    runtime = make_runtime(settings, make)
    running = asyncio.ensure_future(runtime.run())
    peer: VerifierPeer = VerifierPeer(runtime)
    await settle()
    try:
        yield runtime, peer
    finally:
        await peer.vanish()
        running.cancel()
        await asyncio.wait((running,))


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(8):
        await asyncio.sleep(0)


async def finish(peer: VerifierPeer, *specs: SessionSpec) -> dict[str, Tokens]:
    """Outputs of sessions until all have ended; their commits must be contiguous."""
    outputs: dict[str, Tokens] = {spec.session: () for spec in specs}
    open_ones = {spec.session: spec for spec in specs}
    while open_ones:
        commit = await peer.hear(Commit)
        spec = open_ones[commit.session]
        assert commit.start == len(spec.context) + len(outputs[commit.session])
        outputs[commit.session] += commit.token_ids
        if commit.finish is not None:
            del open_ones[commit.session]
    return outputs


async def test_a_session_gets_the_models_own_text_step_by_step(looptime: LoopTimeProxy) -> None:
    async with serving() as (runtime, peer):
        peer.say(SPEC)
        assert await finish(peer, SPEC) == {"s": reference(PROMPT, 20)}
        assert float(looptime) == pytest.approx(20 * STEP_S)
        assert runtime.num_sessions == 0


async def test_sessions_of_all_kinds_share_their_steps(looptime: LoopTimeProxy) -> None:
    laws = [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.9, seed=5), SamplingParams(top_k=3, seed=1)]
    specs = [
        replace(SPEC, session=f"s{i}", context=(i, 2, 3), sampling=laws[i % 3], stops=StopRules(10 + i))
        for i in range(12)
    ]
    async with serving() as (_, peer):
        peer.say(*specs)
        outputs = await finish(peer, *specs)
        assert float(looptime) == pytest.approx(21 * STEP_S)
    for spec in specs:
        assert outputs[spec.session] == reference(spec.context, spec.stops.max_tokens, sampling=spec.sampling)


async def test_a_session_that_opens_during_a_step_takes_part_in_the_next_one(looptime: LoopTimeProxy) -> None:
    late = replace(SPEC, session="late", stops=StopRules(1))
    async with serving() as (_, peer):
        peer.say(SPEC)
        await asyncio.sleep(3.5 * STEP_S)
        peer.say(late)
        while (await peer.hear(Commit)).session != "late":
            pass
        assert float(looptime) == pytest.approx(5 * STEP_S)


async def test_a_session_that_closes_during_a_step_commits_nothing_more_and_frees_its_slot() -> None:
    backends: list[SyntheticVerifier] = []

    def make(settings: VerifierSettings, clock: Clock) -> SyntheticVerifier:
        backends.append(SyntheticVerifier(settings, clock))
        return backends[-1]

    other = replace(SPEC, session="other")
    async with serving(make=make) as (runtime, peer):
        peer.say(SPEC, other)
        await asyncio.sleep(1.5 * STEP_S)
        peer.say(Close("s"))
        await settle()
        assert runtime.num_sessions == 1
        assert set(backends[0]._specs) == {"s", "other"}
        commits = [await peer.hear(Commit) for _ in range(21)]
        assert [commit.start for commit in commits if commit.session == "s"] == [3]
        assert set(backends[0]._specs) == set()


async def test_a_session_that_closes_before_it_was_opened_takes_no_slot() -> None:
    async with serving(replace(VERIFIER, max_sessions=1)) as (runtime, peer):
        for _ in range(3):
            peer.say(SPEC, Close("s"))
            await settle()
            assert runtime.num_sessions == 0
        peer.say(SPEC)
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)


async def test_a_session_may_open_again_under_its_id_while_its_former_step_runs() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC)
        await asyncio.sleep(2.5 * STEP_S)
        again = replace(SPEC, context=(*PROMPT, *reference(PROMPT, 2)))
        peer.say(Close("s"), again)
        commits = [await peer.hear(Commit) for _ in range(2)]
        assert [commit.start for commit in commits] == [3, 4]
        assert (await finish(peer, again))["s"] == reference(PROMPT, 20)[2:]


async def test_a_session_ends_at_its_deadline(looptime: LoopTimeProxy) -> None:
    async with serving() as (runtime, peer):
        peer.say(replace(SPEC, stops=StopRules(500), deadline_s=0.105))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("s", "DEADLINE_EXCEEDED", False)
        assert float(looptime) == pytest.approx(11 * STEP_S)
        assert runtime.num_sessions == 0


async def test_a_deadline_also_ends_a_session_that_waits_for_credit(looptime: LoopTimeProxy) -> None:
    async with serving() as (runtime, peer):
        peer.say(replace(SPEC, deadline_s=5.0), Credit("s", 4))
        assert (await peer.hear(Refused)).code == "DEADLINE_EXCEEDED"
        assert float(looptime) == pytest.approx(5.0, abs=0.01)
        assert runtime.num_sessions == 0


async def test_nothing_is_committed_beyond_the_credit() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, Credit("s", 6), Draft("s", 3, reference(PROMPT, 4)))
        output: Tokens = ()
        while len(output) < 3:
            output += (await peer.hear(Commit)).token_ids
        assert output == reference(PROMPT, 3)
        more = asyncio.ensure_future(peer.hear(Commit))
        await asyncio.sleep(1.0)
        assert not more.done()
        peer.say(Credit("s", 7))
        assert await more == replace(await more, start=6, token_ids=reference(PROMPT, 4)[3:])


REFUSALS = {
    "another model": (replace(SPEC, model_digest="m" * 64), "FAILED_PRECONDITION", "model mmmmmmmm"),
    "another tokenizer": (replace(SPEC, tokenizer_digest="o" * 64), "FAILED_PRECONDITION", "tokenizer oooooooo"),
    "other numerics": (replace(SPEC, numerics_id="n" * 16), "FAILED_PRECONDITION", "numerics id nnnnnnnn"),
    "rejection sampling": (
        replace(SPEC, sampling=SamplingParams(sampler=Sampler.REJECTION)), "UNIMPLEMENTED", "sampler: rejection",
    ),
    "block sampling": (replace(SPEC, sampling=SamplingParams(sampler=Sampler.BLOCK)), "UNIMPLEMENTED", "use coupled"),
    "a temperature": (replace(SPEC, sampling=SamplingParams(temperature=-1.0)), "INVALID_ARGUMENT", "temperature"),
    "a top-p": (replace(SPEC, sampling=SamplingParams(top_p=0.0)), "INVALID_ARGUMENT", "top_p"),
    "an id": (replace(SPEC, context=(1, 2, VOCAB)), "INVALID_ARGUMENT", "outside the vocabulary"),
    "no context": (replace(SPEC, context=()), "INVALID_ARGUMENT", "context: it needs at least one token"),
    "a prompt length": (replace(SPEC, prompt_length=4), "INVALID_ARGUMENT", "prompt_length"),
    "a full context": (replace(SPEC, context=(1,) * 2048), "INVALID_ARGUMENT", "no room in the model's context"),
    "no output": (replace(SPEC, stops=StopRules(0)), "INVALID_ARGUMENT", "max_tokens"),
    "a draft length": (replace(SPEC, max_draft=257), "INVALID_ARGUMENT", "max_draft"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_can_not_be_served_is_refused_and_costs_nobody_else(name: str) -> None:
    spec, code, words = REFUSALS[name]
    good = replace(SPEC, session="good")

    def make(settings: VerifierSettings, clock: Clock) -> SyntheticVerifier:
        backend = SyntheticVerifier(settings, clock)
        backend.info = replace(backend.info, tokenizer_digest="t" * 64)
        return backend

    async with serving(make=make) as (runtime, peer):
        peer.say(spec, good)
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("s", code, False)
        assert words in refused.message
        assert runtime.num_sessions == 1
        assert await finish(peer, good) == {"good": reference(PROMPT, 20)}


async def test_a_spec_that_names_what_is_served_is_served() -> None:
    async with serving() as (runtime, peer):
        info = runtime.info
        spec = replace(SPEC, model_digest=info.model_digest, numerics_id=info.numerics_id, tokenizer_digest="o" * 64)
        peer.say(spec)
        assert (await finish(peer, spec))["s"] == reference(PROMPT, 20)


async def test_with_all_slots_taken_a_session_may_come_again_later() -> None:
    async with serving(replace(VERIFIER, max_sessions=2)) as (_, peer):
        peer.say(*(replace(SPEC, session=name) for name in "abc"))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("c", "RESOURCE_EXHAUSTED", True)
        assert refused.message == "All 2 session slots are taken; try another verifier."
        peer.say(Close("a"), replace(SPEC, session="c"))
        while (commit := await peer.hear(Commit)).session != "c":
            pass
        assert commit.start == 3


async def test_a_session_can_not_be_opened_twice_on_one_stream() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, SPEC)
        assert (await peer.hear(Refused)).code == "ALREADY_EXISTS"
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)


async def test_a_new_stream_takes_a_session_over_from_one_that_nobody_noticed_was_lost() -> None:
    async with serving(replace(VERIFIER, max_sessions=1)) as (runtime, former):
        former.say(SPEC)
        commits = [await former.hear(Commit) for _ in range(2)]
        peer: VerifierPeer = VerifierPeer(runtime)
        rest = replace(SPEC, context=(*PROMPT, *(token for commit in commits for token in commit.token_ids)))
        peer.say(rest)
        assert (await finish(peer, rest))["s"] == reference(PROMPT, 20)[2:]
        await former.vanish()
        await peer.vanish()
        assert runtime.num_sessions == 0


async def test_right_drafts_are_committed_together(looptime: LoopTimeProxy) -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, Draft("s", 3, reference(PROMPT, 4), (0.9,) * 4))
        commit = await peer.hear(Commit)
        assert (commit.token_ids, commit.drafted, commit.accepted) == (reference(PROMPT, 5), 4, 4)
        assert float(looptime) == pytest.approx(STEP_S)


async def test_wrong_drafts_cost_nothing_but_themselves() -> None:
    right = reference(PROMPT, 2)
    async with serving() as (_, peer):
        peer.say(SPEC, Draft("s", 3, (*right, (reference(PROMPT, 3)[2] + 1) % VOCAB, 0), (0.9,) * 4))
        commit = await peer.hear(Commit)
        assert (commit.token_ids, commit.drafted, commit.accepted) == (reference(PROMPT, 3), 4, 2)


BAD_DRAFTS = {
    "an id outside the vocabulary": Draft("s", 3, (VOCAB,)),
    "a negative id": Draft("s", 3, (-1,)),
    "too many tokens": Draft("s", 3, (1,) * 257),
    "confidences for other tokens": Draft("s", 3, (1, 2), (0.5,)),
}


@pytest.mark.parametrize("name", BAD_DRAFTS)
async def test_a_bad_draft_is_dropped_and_the_session_goes_on(name: str) -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, BAD_DRAFTS[name])
        commit = await peer.hear(Commit)
        assert (commit.token_ids, commit.drafted) == (reference(PROMPT, 1), 0)
        peer.say(BAD_DRAFTS[name], Draft("s", 4, reference(PROMPT, 3)[1:], (0.9, 0.9)))
        commits = [await peer.hear(Commit)]
        while not commits[-1].drafted:
            commits.append(await peer.hear(Commit))
        tokens = tuple(token for commit in commits for token in commit.token_ids)
        assert tokens == reference(PROMPT, 1 + len(tokens))[1:]


async def test_nobody_drafts_credits_or_closes_for_a_session_of_another_stream() -> None:
    async with serving() as (runtime, peer):
        stranger: VerifierPeer = VerifierPeer(runtime)
        peer.say(SPEC)
        await settle()
        stranger.say(Draft("s", 3, reference(PROMPT, 4), (0.9,) * 4), Credit("s", 3), Close("s"), Close("unknown"))
        commits = [await peer.hear(Commit) for _ in range(20)]
        assert [commit.drafted for commit in commits] == [0] * 20
        await stranger.vanish()


async def test_a_session_that_wants_no_drafts_is_decoded_plainly(looptime: LoopTimeProxy) -> None:
    spec = replace(SPEC, max_draft=0)
    async with serving() as (_, peer):
        peer.say(spec, Draft("s", 3, reference(PROMPT, 4), (0.9,) * 4))
        assert (await finish(peer, spec))["s"] == reference(PROMPT, 20)
        assert float(looptime) == pytest.approx(20 * STEP_S)


async def draft_after(delay_s: float, peer: VerifierPeer, *, wrong_by: int = 0, confidence: float = 0.9) -> Tokens:
    """Answer every commit with four guesses, ``delay_s`` later; return the output."""
    whole, output = reference(PROMPT, 310), list[int]()
    loop = asyncio.get_running_loop()
    while True:
        commit = await peer.hear(Commit)
        output += commit.token_ids
        if commit.finish is not None:
            return tuple(output)
        guesses = tuple((token + wrong_by) % VOCAB for token in whole[len(output) : len(output) + 4])
        loop.call_later(delay_s, peer.say, Draft("s", 3 + len(output), guesses, (confidence,) * 4))


async def test_it_waits_a_little_for_drafts_that_save_more(looptime: LoopTimeProxy) -> None:
    spec = replace(SPEC, stops=StopRules(50))
    async with serving() as (_, peer):
        peer.say(spec)
        assert await draft_after(0.002, peer) == reference(PROMPT, 50)
        # A wait of 2 ms and a step of 10 ms bring 5 tokens; without waiting it would take two steps.
        assert float(looptime) == pytest.approx(50 / 5 * 0.012, abs=2 * STEP_S)


async def test_it_never_waits_for_drafts_that_come_too_late(looptime: LoopTimeProxy) -> None:
    spec = replace(SPEC, stops=StopRules(50))
    async with serving() as (_, peer):
        peer.say(spec)
        assert await draft_after(0.058, peer) == reference(PROMPT, 50)
        assert float(looptime) == pytest.approx(50 * STEP_S)


@pytest.mark.parametrize(
    ("row_s", "confidence"),
    [(0.0, 0.9), (0.001, 0.3), (0.001, 0.05)],
    ids=["checked and wrong", "rarely worth checking", "never worth checking"],
)
async def test_it_stops_waiting_for_drafts_that_bring_nothing(
    row_s: float, confidence: float, looptime: LoopTimeProxy
) -> None:
    settings = replace(VERIFIER, synthetic=replace(VERIFIER.synthetic, step_row_s=row_s))
    async with serving(settings) as (_, peer):
        peer.say(replace(SPEC, stops=StopRules(300)))
        output = await draft_after(0.002, peer, wrong_by=1, confidence=confidence)
        assert output == reference(PROMPT, 300)
        assert float(looptime) <= 1.015 * 300 * (STEP_S + row_s)


async def test_it_does_not_go_on_waiting_for_a_drafter_that_fell_silent(looptime: LoopTimeProxy) -> None:
    spec = replace(SPEC, stops=StopRules(300))
    async with serving() as (_, peer):
        peer.say(spec)
        drafting = asyncio.ensure_future(draft_after(0.002, peer))
        await asyncio.sleep(0.15)
        drafting.cancel()
        await asyncio.wait((drafting,))
        before, num_tokens = float(looptime), 0
        while True:
            commit = await peer.hear(Commit)
            num_tokens += len(commit.token_ids)
            if commit.finish is not None:
                break
        assert num_tokens > 150
        assert float(looptime) - before <= num_tokens * STEP_S * 1.05


async def test_sessions_of_a_peer_that_leaves_are_closed_and_others_go_on() -> None:
    async with serving() as (runtime, peer):
        others: list[VerifierPeer] = [VerifierPeer(runtime) for _ in range(2)]
        peer.say(SPEC)
        for name, other in zip("ab", others, strict=True):
            other.say(*(replace(SPEC, session=f"{name}{index}") for index in range(3)))
        await asyncio.sleep(2.5 * STEP_S)
        assert runtime.num_sessions == 7
        await others[0].leave()
        assert runtime.num_sessions == 4
        await others[1].vanish()
        assert runtime.num_sessions == 1
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)


async def test_a_draining_verifier_ends_what_it_has_and_takes_nothing_new() -> None:
    async with serving() as (runtime, peer):
        peer.say(SPEC)
        await settle()
        runtime.drain("shutting down")
        assert await peer.hear(Drain) == Drain("shutting down")
        peer.say(replace(SPEC, session="new"))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("new", "UNAVAILABLE", True)
        late: VerifierPeer = VerifierPeer(runtime)
        assert await late.hear(Drain) == Drain("shutting down")
        idle = asyncio.ensure_future(runtime.wait_idle())
        await settle()
        assert not idle.done()
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)
        await idle
        await late.vanish()


async def test_an_idle_verifier_is_idle() -> None:
    async with serving() as (runtime, _):
        await runtime.wait_idle()


async def test_what_is_cut_may_go_on_elsewhere_at_once() -> None:
    async with serving() as (runtime, peer):
        peer.say(SPEC, replace(SPEC, session="other"))
        await settle()
        runtime.cut()
        assert await peer.hear(Drain)
        refusals = [await peer.hear(Refused) for _ in range(2)]
        assert {(one.session, one.code, one.retryable) for one in refusals} == {
            ("s", "UNAVAILABLE", True),
            ("other", "UNAVAILABLE", True),
        }
        assert runtime.num_sessions == 0
        await runtime.wait_idle()


class Failing(SyntheticVerifier):
    """Its third step fails."""

    steps = 0

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the device is gone")
        return await super().step(items)


async def test_a_failing_step_ends_the_process_and_sends_its_sessions_elsewhere() -> None:
    runtime = make_runtime(make=Failing)
    running = asyncio.ensure_future(runtime.run())
    peer: VerifierPeer = VerifierPeer(runtime)
    peer.say(SPEC)
    refused = await peer.hear(Refused)
    assert (refused.session, refused.code, refused.retryable) == ("s", "UNAVAILABLE", True)
    with pytest.raises(RuntimeError, match="the device is gone"):
        await running
    peer.say(SPEC)
    assert (await peer.hear(Refused)).code == "UNAVAILABLE"
    await peer.vanish()


class Picky(SyntheticVerifier):
    """Chokes on one session."""

    closed: list[str]

    def __init__(self, settings: VerifierSettings, clock: Clock) -> None:
        super().__init__(settings, clock)
        self.closed = []

    def open(self, spec: SessionSpec) -> None:
        super().open(spec)
        if spec.session == "poison":
            raise ZeroDivisionError("a defect that one request brings out")

    def close(self, session: str) -> None:
        super().close(session)
        self.closed.append(session)


async def test_a_session_whose_opening_fails_costs_nobody_else_anything() -> None:
    backends: list[Picky] = []

    def make(settings: VerifierSettings, clock: Clock) -> Picky:
        backends.append(Picky(settings, clock))
        return backends[-1]

    async with serving(make=make) as (runtime, peer):
        peer.say(SPEC, replace(SPEC, session="poison"))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("poison", "INTERNAL", False)
        assert "ZeroDivisionError" not in refused.message
        assert backends[0].closed == ["poison"]
        assert runtime.num_sessions == 1
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)


async def test_long_prompts_come_in_chunks_between_which_others_go_on(looptime: LoopTimeProxy) -> None:
    prompt = tuple(index % VOCAB for index in range(300))
    long = replace(SPEC, session="long", context=prompt, prompt_length=300)
    async with serving(replace(VERIFIER, token_budget=100, prefill_chunk=64)) as (_, peer):
        peer.say(long, SPEC)
        commits = [await peer.hear(Commit) for _ in range(5)]
        assert [commit.session for commit in commits] == ["s"] * 4 + commits[4:5][0].session.split()
        outputs = await finish_from(commits, peer, long, SPEC)
    assert outputs == {"long": reference(prompt, 20), "s": reference(PROMPT, 20)}


async def finish_from(commits: list[Commit], peer: VerifierPeer, *specs: SessionSpec) -> dict[str, Tokens]:
    while sum(commit.finish is not None for commit in commits) < len(specs):
        commits.append(await peer.hear(Commit))
    return {
        spec.session: tuple(token for commit in commits if commit.session == spec.session for token in commit.token_ids)
        for spec in specs
    }


async def test_a_stop_id_among_accepted_drafts_ends_the_session_there() -> None:
    whole = reference(PROMPT, 20)
    spec = replace(SPEC, stops=StopRules(20, (whole[2],)))
    async with serving() as (_, peer):
        peer.say(spec, Draft("s", 3, whole[:4], (0.9,) * 4))
        commit = await peer.hear(Commit)
        assert commit.token_ids == whole[: whole.index(whole[2]) + 1]
        assert commit.finish is FinishReason.STOP


async def test_a_commit_says_how_long_its_step_took() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC)
        await asyncio.sleep(0.5 * STEP_S)
        late = replace(SPEC, session="late")
        peer.say(late)
        while (commit := await peer.hear(Commit)).session != "late":
            pass
        assert commit.timings.queue_s == pytest.approx(0.5 * STEP_S)
        assert commit.timings.forward_s == pytest.approx(STEP_S)
        assert commit.timings.started_ns == pytest.approx(1e9 * STEP_S)
        while (commit := await peer.hear(Commit)).session != "late":
            pass
        assert commit.timings.queue_s == 0.0
        assert commit.timings.started_ns == pytest.approx(2e9 * STEP_S)


async def test_every_prompt_token_is_counted_once_also_those_of_the_chunk_that_samples() -> None:
    registry = CollectorRegistry()
    runtime = VerifierRuntime(
        SyntheticVerifier(VERIFIER, LoopClock()),
        VERIFIER,
        LoopClock(),
        tracer=Tracer("verifier"),
        metrics=VerifierMetrics(registry),
    )
    running = asyncio.ensure_future(runtime.run())
    peer: VerifierPeer = VerifierPeer(runtime)
    long = replace(SPEC, session="long", context=PROMPT * 70, prompt_length=210)
    peer.say(SPEC, long)
    await finish(peer, SPEC, long)
    assert registry.get_sample_value("paceline_prompt_tokens_total") == 213
    await peer.vanish()
    running.cancel()
    await asyncio.wait((running,))


async def test_a_target_without_hidden_states_refuses_to_be_tapped_and_takes_an_end_of_it() -> None:
    async with serving() as (_, peer):
        peer.say(SPEC, Tap("s"), replace(SPEC, session="t"), Tap("t", (-1,), 4))
        refused = await peer.hear(Refused)
        assert (refused.session, refused.code, refused.retryable) == ("t", "INVALID_ARGUMENT", False)
        assert refused.message == "taps: verifier synthetic-64 gives no hidden states."
        assert (await finish(peer, SPEC))["s"] == reference(PROMPT, 20)
