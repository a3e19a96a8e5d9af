"""What a verifier gives a drafter of its state: at every committed position the bits of a plain forward pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from support.peers import Peer, connected_peer
from support.tiny_models import VOCAB, make_runner, random_tokens, write_model

from paceline.config.settings import DrafterSettings, VerifierSettings
from paceline.core.ports import Clock, VerifierBackend
from paceline.core.requests import Chunk, GenerateRequest
from paceline.core.types import (
    Alternative,
    Commit,
    FeatureFrame,
    KvFrame,
    KvShape,
    KvWish,
    Needs,
    Refused,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepResult,
    StopRules,
    Tap,
    Tokens,
)
from paceline.drafters.reloading import Reloader
from paceline.models.frames import rows_of
from paceline.models.invariance import settle
from paceline.models.runner import Feed, ModelRunner
from paceline.models.threads import use_threads
from paceline.telemetry.metrics import VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.testing.clock import LoopClock
from paceline.testing.reference import reference
from paceline.testing.system import VERIFIER, LocalSystem, drafter, local_system, verifier
from paceline.testing.witness import FeatureWitness
from paceline.testing.workers import InlineWorker
from paceline.verifiers.torch import TorchVerifier
from paceline.wire.links import GrpcVerifierLink
from verifier_service import service
from verifier_service.runtime import VerifierRuntime

PROMPT = tuple(random_tokens(21))
LENGTH = 40
SHAPE = KvShape("full_attention", 2, 16)
NEEDS = Needs(hidden_states=(1, -1), history=12, hidden_size=64, kv=(SHAPE,))
WARM = SamplingParams(temperature=0.8, top_p=0.95)


class Slow:
    """A real back end whose steps take 10 ms of the loop's time, so that drafts come while they run."""

    def __init__(self, backend: TorchVerifier, clock: Clock) -> None:
        self.info, self.open, self.close = backend.info, backend.open, backend.close
        self.max_alternatives = backend.max_alternatives
        self._backend = backend
        self._clock = clock

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        result = await self._backend.step(items)
        await self._clock.sleep(0.01)
        return result


@dataclass
class World:
    """A tiny real model: its settings, and its hidden states in one pass."""

    settings: VerifierSettings
    runner: ModelRunner

    def make(self, settings: VerifierSettings, clock: Clock) -> VerifierBackend:
        """Each start of a verifier loads the model again, as a process would; it computes inside the event loop."""
        runner = make_runner(Path(settings.model), dtype=self.runner.loaded.dtype)
        return Slow(TorchVerifier(runner, settle(runner), InlineWorker()), clock)

    def features(self, tokens: Sequence[int]) -> torch.Tensor:
        """[len(tokens), 2 * hidden] of tap 1 and the last one, in bfloat16."""
        self.runner.open("whole")
        try:
            (out,) = self.runner.run([Feed("whole", 0, tokens, 1)], NEEDS.hidden_states)
        finally:
            self.runner.close("whole")
        assert out.features is not None
        return out.features.to(torch.bfloat16)

    def keys_and_values(self, tokens: Sequence[int]) -> torch.Tensor:
        """[len(tokens), 2 * heads * size] of the last layer, in bfloat16."""
        self.runner.open("whole")
        try:
            self.runner.run([Feed("whole", 0, tokens, 1)])
            return self.runner.view().rows(SHAPE.kind, "whole", 0, len(tokens))
        finally:
            self.runner.close("whole")


@pytest.fixture(scope="module", params=["llama bfloat16", "qwen3 float32"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    before = torch.get_num_threads()
    family, dtype = request.param.split()
    directory: Path = write_model(tmp_path_factory.mktemp("model"), family, head_dim=16, num_hidden_layers=3)
    runner = make_runner(directory, dtype=getattr(torch, dtype))
    assert settle(runner).is_exact
    settings = VerifierSettings(model=str(directory), dtype=dtype, max_context=128, prefill_chunk=8, threads=1)
    yield World(settings, runner)
    use_threads(before)


def request(sampling: SamplingParams) -> GenerateRequest:
    return GenerateRequest(PROMPT, sampling=sampling, seed=5, max_tokens=LENGTH)


@asynccontextmanager
async def system(world: World, witness: FeatureWitness, num_verifiers: int = 1) -> AsyncIterator[LocalSystem]:
    async with local_system(
        [verifier(world.settings, world.make)] * num_verifiers, [drafter(DrafterSettings(), lambda _: witness)]
    ) as running:
        yield running


async def plain(world: World, sampling: SamplingParams) -> Tokens:
    async with local_system([verifier(world.settings, world.make)], ()) as running:
        return (await running.complete(request(sampling))).token_ids


def partly_right(text: Tokens) -> Callable[[Tokens], Tokens]:
    """Right for three tokens, then wrong, then right again."""

    def guess(context: Tokens) -> Tokens:
        rest = (PROMPT + text)[len(context) : len(context) + 6]
        return tuple((token + (index == 3)) % VOCAB for index, token in enumerate(rest))

    return guess


def check(world: World, witness: FeatureWitness, text: Tokens) -> None:
    """Every row ever received is the row of a plain pass; jobs get consecutive rows up to the last but one token.

    Keys and values come from the first position on, whoever takes over in mid-session, each once.
    """
    whole = world.features(PROMPT + text)
    for rows in witness.rows.values():
        for position, row in rows.items():
            frame = FeatureFrame(position, 1, row)
            assert torch.equal(rows_of(frame)[0], whole[position]), position
    cached = world.keys_and_values(PROMPT + text)
    for kinds in witness.kv.values():
        for position, row in kinds[SHAPE.kind].items():
            assert torch.equal(rows_of(FeatureFrame(position, 1, row))[0], cached[position]), position
    for job in witness.jobs:
        assert [one.rows.end for one in job.kv] in ([], [job.committed - 1])
        assert [frame.end for frame in job.features] in ([], [job.committed - 1])
        assert job.context[: job.committed] == (PROMPT + text)[: job.committed]


@pytest.mark.looptime
@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
async def test_a_drafter_gets_the_hidden_states_of_all_committed_positions(
    world: World, sampling: SamplingParams
) -> None:
    text = await plain(world, sampling)
    witness = FeatureWitness(NEEDS, partly_right(text))
    async with system(world, witness) as running:
        done = await running.complete(request(sampling))
    assert done.token_ids == text
    assert done.finished.speculative.num_accepted_draft_tokens > 8
    assert done.finished.speculative.draft_acceptance_rate < 1.0
    check(world, witness, text)
    (rows,) = witness.rows.values()
    assert sorted(rows) == list(range(min(rows), max(rows) + 1))
    assert len(PROMPT) - NEEDS.history <= min(rows) < len(PROMPT) - 4
    assert max(rows) > len(PROMPT) + LENGTH - 12
    (kinds,) = witness.kv.values()
    assert sorted(kinds[SHAPE.kind]) == list(range(max(rows) + 1))
    frames = [one.rows for job in witness.jobs for one in job.kv]
    assert [one.start for one in frames] == [0, *(one.end for one in frames[:-1])]


async def _through(running: LocalSystem, sampling: SamplingParams, at: int, fault: Callable[[], object]) -> Tokens:
    """The text of a request, during which ``fault`` happens once."""
    tokens: list[int] = []
    is_due = True
    async for event in running.generate(request(sampling)):
        if isinstance(event, Chunk):
            assert event.start == len(tokens)
            tokens += event.token_ids
            if is_due and len(tokens) >= at:
                fault()
                is_due = False
    assert not is_due
    return tuple(tokens)


@pytest.mark.looptime
@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
async def test_a_drafter_that_takes_over_in_mid_session_gets_the_latest_rows_and_then_all(
    world: World, sampling: SamplingParams
) -> None:
    text = await plain(world, sampling)
    first, second = (FeatureWitness(NEEDS, partly_right(text)) for _ in range(2))
    heirs = iter((first, second))
    async with local_system(
        [verifier(world.settings, world.make)], [drafter(DrafterSettings(), lambda _: next(heirs))]
    ) as running:

        def replace_drafter() -> None:
            running.drafters[0].kill()
            running.drafters[0].start()

        assert await _through(running, sampling, 8, replace_drafter) == text
    check(world, first, text)
    check(world, second, text)
    assert any(job.features for job in first.jobs)
    (kinds,) = second.kv.values()
    positions = sorted(kinds[SHAPE.kind])
    assert positions == list(range(len(positions)))
    assert len(positions) > len(PROMPT) + LENGTH - 12


@pytest.mark.looptime
async def test_a_verifier_that_takes_over_in_mid_session_gives_the_same_rows(world: World) -> None:
    text = await plain(world, WARM)
    witness = FeatureWitness(NEEDS, partly_right(text))
    async with system(world, witness, num_verifiers=2) as running:

        def lose_busy_verifier() -> None:
            next(one for one in running.verifiers if one.num_sessions).kill()

        assert await _through(running, WARM, 8, lose_busy_verifier) == text
    check(world, witness, text)
    (rows,) = witness.rows.values()
    assert max(rows) > len(PROMPT) + LENGTH - 12


@pytest.mark.looptime
@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
async def test_a_drafter_inside_the_verifier_gets_them_as_the_step_left_them(
    world: World, sampling: SamplingParams
) -> None:
    text = await plain(world, sampling)
    witness = FeatureWitness(NEEDS, partly_right(text))
    async with local_system([verifier(world.settings, world.make, lambda _: witness)], ()) as running:
        done = await running.complete(request(sampling))
    assert done.token_ids == text
    check(world, witness, text)
    assert all(job.features for job in witness.jobs)
    assert witness.jobs[0].features[0].start == len(PROMPT) - NEEDS.history
    assert {job.kv for job in witness.jobs} == {()}  # these it reads where they are


@pytest.mark.looptime
async def test_a_stop_in_the_midst_of_accepted_drafts_leaves_rows_that_are_nobodys(world: World) -> None:
    text = await plain(world, WARM)
    whole = (*PROMPT, *text)
    witnesses = [FeatureWitness(NEEDS, lambda context: whole[len(context) :]) for _ in range(2)]
    stop = next(i for i in (2, 3, 4, 5) if text[i] not in text[:i])  # of nine tokens that one step commits
    asked = replace(request(WARM), stop_token_ids=(text[stop],), max_draft=8, min_draft=8)
    async with local_system(
        [verifier(world.settings, world.make, lambda _: witnesses[0])],
        [drafter(DrafterSettings(), lambda _: witnesses[1])],
    ) as running:
        done = await running.complete(asked)
        again = await running.complete(asked)
    assert done.token_ids == again.token_ids == text[: stop + 1]
    assert done.finished.speculative.num_accepted_draft_tokens > 0


@pytest.mark.looptime
async def test_a_remote_and_a_resident_drafter_each_get_what_they_need(world: World) -> None:
    text = await plain(world, WARM)
    remote, resident = FeatureWitness(NEEDS, partly_right(text)), FeatureWitness(NEEDS, partly_right(text))
    resident.info = replace(resident.info, needs=Needs(hidden_states=(-1,), history=3))
    async with local_system(
        [verifier(world.settings, world.make, lambda _: resident)], [drafter(DrafterSettings(), lambda _: remote)]
    ) as running:
        done = await running.complete(request(WARM))
    assert done.token_ids == text
    check(world, remote, text)
    whole = world.features(PROMPT + text)[:, 64:]
    for rows in resident.rows.values():
        for position, row in rows.items():
            assert torch.equal(rows_of(FeatureFrame(position, 1, row))[0], whole[position])
    assert {frame.num_rows for job in resident.jobs for frame in job.features} <= {1, 2, 3}


@pytest.mark.looptime
async def test_a_drafter_that_can_do_without_drafts_for_a_target_that_gives_none() -> None:
    text = (1, 2, 3, *reference((1, 2, 3), 40))
    witness = FeatureWitness(replace(NEEDS, is_optional=True), lambda context: text[len(context) :])
    async with local_system([verifier(VERIFIER)], [drafter(DrafterSettings(), lambda _: witness)]) as running:
        done = await running.complete(GenerateRequest((1, 2, 3), max_tokens=20))
    assert done.token_ids == text[3:23]
    assert done.finished.speculative.num_accepted_draft_tokens > 0
    assert {job.features for job in witness.jobs} == {()}


# --- a verifier alone, over its port and over a socket ---------------------------------------------------------------

SPEC = SessionSpec("s", PROMPT, len(PROMPT), SamplingParams(), StopRules(LENGTH), max_draft=4)


async def test_each_wish_of_a_step_gets_its_own_layers_and_its_own_rows(world: World) -> None:
    backend = world.make(world.settings, LoopClock())
    backend.open(SPEC)
    backend.open(replace(SPEC, session="t"))
    taps = (Tap("s", (-1,), 2), Tap("s", (2, 1), 100))
    first, second = (
        await backend.step([StepItem("s", 0, PROMPT, taps=taps), StepItem("t", 0, PROMPT[:9], sample=False)])
    ).outcomes
    whole = world.features(PROMPT)
    last, both = first.features
    assert (last.start, last.end) == (len(PROMPT) - 2, len(PROMPT))
    assert torch.equal(rows_of(last), whole[-2:, 64:])
    assert (both.start, both.end) == (0, len(PROMPT))
    assert torch.equal(rows_of(both)[:, 64:], whole[:, :64])
    assert second.features == ()


async def test_rows_of_rejected_drafts_are_never_given(world: World) -> None:
    backend = world.make(world.settings, LoopClock())
    backend.open(SPEC)
    taps = (Tap("s", NEEDS.hidden_states, 100),)
    (first,) = (await backend.step([StepItem("s", 0, PROMPT, taps=taps)])).outcomes
    right = first.token_ids[0]
    item = StepItem("s", len(PROMPT), (right, *random_tokens(3, seed=9)), num_draft=3, taps=taps)
    (second,) = (await backend.step([item])).outcomes
    (frame,) = second.features
    assert second.accepted < 3
    assert frame.end == len(PROMPT) + 1 + second.accepted
    whole = world.features((*PROMPT, right, *second.token_ids))
    assert torch.equal(rows_of(frame), whole[frame.start : frame.end])


async def test_the_row_of_an_alternative_that_was_right_is_given_in_place_of_the_drafts(world: World) -> None:
    backend = world.make(world.settings, LoopClock())
    backend.open(SPEC)
    taps = (Tap("s", NEEDS.hidden_states, 100), Tap("s", (2,), 1))
    text = (await backend.step([StepItem("s", 0, PROMPT, taps=taps)])).outcomes[0].token_ids
    backend.open(replace(SPEC, session="plain"))
    while len(text) < 5:
        known = PROMPT + text
        text += (await backend.step([StepItem("plain", 0, known)])).outcomes[0].token_ids
    wrong = (text[2] + 1) % 97
    draft, others = (text[1], wrong, text[3]), (Alternative(1, (text[2] + 2) % 97), Alternative(1, text[2]))
    item = StepItem("s", len(PROMPT), (text[0], *draft), 3, others, taps=taps, kv=(KvWish(SHAPE.kind, 5),))
    (outcome,) = (await backend.step([item])).outcomes
    assert (outcome.token_ids, outcome.accepted) == (text[1:4], 2)
    frame, last = outcome.features
    whole = world.features(PROMPT + text)
    assert (frame.start, frame.end) == (len(PROMPT), len(PROMPT) + 3)
    assert torch.equal(rows_of(frame), whole[frame.start : frame.end])
    assert (last.start, last.end) == (frame.end - 1, frame.end)
    (rows,) = (one.rows for one in outcome.kv)
    assert (rows.start, rows.end) == (5, frame.end)
    assert torch.equal(rows_of(rows), world.keys_and_values(PROMPT + text)[5 : frame.end])


async def test_the_next_token_does_not_depend_on_who_listens(world: World) -> None:
    texts = []
    for taps in ((), (Tap("s", (1, -1), 4),)):
        backend = world.make(world.settings, LoopClock())
        backend.open(SPEC)
        tokens, cached = list(PROMPT), 0
        for _ in range(8):
            item = StepItem("s", cached, tuple(tokens[cached:]), taps=taps)
            cached = len(tokens)
            tokens += (await backend.step([item])).outcomes[0].token_ids
        texts.append(tokens)
    assert texts[0] == texts[1]


@asynccontextmanager
async def over_a_socket(world: World) -> AsyncIterator[Peer]:
    runtime = verifier(world.settings, world.make)(LoopClock())
    assert isinstance(runtime, VerifierRuntime)
    reloads = VerifierMetrics(CollectorRegistry()).reloads
    reloader = Reloader(runtime, lambda: FeatureWitness(NEEDS, lambda context: ()), reloads, InlineWorker())
    register = service.register(runtime, reloader, Tracer("verifier"))
    async with connected_peer("grpc", runtime, register, GrpcVerifierLink, service.SERVICE) as peer:
        yield peer


async def test_frames_survive_the_wire_and_follow_each_other_without_a_gap(world: World) -> None:
    async with over_a_socket(world) as peer:
        peer.link.send(SPEC)
        peer.link.send(Tap("s", NEEDS.hidden_states, 12))
        events = await peer.read(lambda event: isinstance(event, Commit) and event.finish is not None)
    tokens = PROMPT + tuple(token for commit in events for token in commit.token_ids)
    frames = [commit.features for commit in events[:-1]]
    assert frames[0].start == len(PROMPT) - 12
    assert [frame.start for frame in frames[1:]] == [frame.end for frame in frames[:-1]]
    assert [frame.end for frame in frames] == [commit.start + len(commit.token_ids) - 1 for commit in events[:-1]]
    assert events[-1].features is None
    assert torch.equal(torch.cat([rows_of(frame) for frame in frames]), world.features(tokens)[frames[0].start : -2])


async def test_keys_and_values_come_while_the_prompt_is_read_and_then_before_each_commit(world: World) -> None:
    async with over_a_socket(world) as peer:
        peer.link.send(SPEC)
        peer.link.send(Tap("s", kv=(SHAPE,)))
        events = await peer.read(lambda event: isinstance(event, Commit) and event.finish is not None)
    assert [type(event) for event in events[:4]] == [KvFrame, KvFrame, KvFrame, Commit]
    assert [type(event) for event in events[4:]] == [KvFrame, Commit] * (LENGTH - 2) + [Commit]
    frames = [event.rows for event in events if isinstance(event, KvFrame)]
    assert [(one.start, one.end) for one in frames[:4]] == [(0, 8), (8, 16), (16, 21), (21, 22)]
    tokens = PROMPT + tuple(token for event in events if isinstance(event, Commit) for token in event.token_ids)
    assert torch.equal(torch.cat([rows_of(one) for one in frames]), world.keys_and_values(tokens)[:-2])


async def test_only_rows_that_are_looked_at_come_at_first(world: World) -> None:
    async with over_a_socket(world) as peer:
        peer.link.send(SPEC)
        peer.link.send(Tap("s", kv=(replace(SHAPE, history=3),)))
        events = await peer.read(lambda event: isinstance(event, Commit) and event.start > len(PROMPT) + 3)
    frames = [event.rows for event in events if isinstance(event, KvFrame)]
    assert [(one.start, one.end) for one in frames[:3]] == [(17, 21), (21, 22), (22, 23)]


async def test_keys_and_values_of_another_shape_are_refused(world: World) -> None:
    async with over_a_socket(world) as peer:
        peer.link.send(SPEC)
        peer.link.send(Tap("s", kv=(replace(SHAPE, head_size=32),)))
        (refused,) = [one for one in await peer.read(lambda event: isinstance(event, Refused)) if one.session == "s"]
    assert refused.code == "INVALID_ARGUMENT"
    assert "full_attention has 2 heads of 16 numbers" in refused.message


async def test_a_layer_that_is_not_there_is_refused_by_name(world: World) -> None:
    async with over_a_socket(world) as peer:
        peer.link.send(SPEC)
        peer.link.send(Tap("s", (1, 7), 12))
        (refused,) = [one for one in await peer.read(lambda event: isinstance(event, Refused)) if one.session == "s"]
    assert refused.code == "INVALID_ARGUMENT"
    assert "there is no tap 7" in refused.message
