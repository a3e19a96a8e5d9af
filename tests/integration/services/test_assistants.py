"""An assistant that reads the target's keys and values, inside the verifier and elsewhere, in whole systems."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.client.aio import Client, Completion
from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings
from paceline.core import ports
from paceline.core.ports import Clock, VerifierBackend
from paceline.core.requests import Chunk, DraftMode, Finished, GenerateRequest
from paceline.core.types import DraftJob, Guess, SamplingParams, StepItem, StepResult, Tokens
from paceline.drafters import create_drafter
from paceline.drafters.warming import warm_up
from paceline.models.invariance import Invariance, settle
from paceline.models.threads import use_threads
from paceline.testing.sockets import serve_coordinator, serve_drafter, serve_verifier
from paceline.testing.stores import UnreliableStore
from paceline.testing.system import LocalSystem, drafter, local_system, verifier
from paceline.testing.waiting import until
from paceline.testing.workers import InlineWorker
from paceline.verifiers.torch import TorchVerifier
from tests.support.tiny_assistants import (
    TARGET,
    VOCAB,
    from_afar,
    library_drafts,
    look_at,
    stock_assistant,
    write_assistant,
)
from tests.support.tiny_models import make_runner, random_tokens, stock_model, write_model

PROMPT = tuple(token % VOCAB for token in random_tokens(21))
LENGTH = 32
BLOCK = 4
LAWS = [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95)]
STEP_S = 0.02
"""A step of the target, so that drafts come while it runs."""


class Slow:
    """A real back end whose steps take a while."""

    def __init__(self, backend: TorchVerifier, clock: Clock) -> None:
        self.info, self.open, self.close = backend.info, backend.open, backend.close
        self.state, self.worker, self.max_alternatives = backend.state, backend.worker, backend.max_alternatives
        self._backend, self._clock = backend, clock

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        result = await self._backend.step(items)
        await self._clock.sleep(STEP_S)
        return result


class Helped:
    """The assistant, which in every third guess goes on from two tokens that are right; its own words are kept."""

    def __init__(self, inner: ports.Drafter, text: Tokens) -> None:
        self.info = inner.info
        self.open, self.close, self.state_bytes = inner.open, inner.close, inner.state_bytes
        self.said: list[tuple[Tokens, Tokens]] = []
        """Committed tokens and what it said behind them, without help."""
        self.first_frames: list[tuple[int, ...]] = []
        self._inner, self._text, self._count = inner, text, 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self._count += 1
        hints = [self._hint(job) for job in jobs]
        helped = [
            replace(job, context=job.context + hint, max_tokens=job.max_tokens - len(hint))
            for job, hint in zip(jobs, hints, strict=True)
        ]
        guesses = self._inner.extend(helped)
        for job, guess in zip(helped, guesses, strict=True):
            self.first_frames += [tuple(one.rows.start for one in job.kv)] if job.kv and not self.first_frames else []
            if guess.token_ids and len(job.context) == job.committed:
                self.said.append((job.context, guess.token_ids))
        return [Guess(one.session, hint + one.token_ids) for hint, one in zip(hints, guesses, strict=True)]

    def _hint(self, job: DraftJob) -> Tokens:
        is_due = self._count % 3 == 0 and job.max_tokens > 2 and len(job.context) == job.committed
        return self._text[len(job.context) : len(job.context) + 2] if is_due else ()


@dataclass
class World:
    """A tiny target and its assistant: ours, and the library's."""

    target: Path
    assistant: Path
    texts: dict[SamplingParams, Tokens] = field(default_factory=dict)
    """Plain ones, by the law of their tokens."""
    stock: Any = field(init=False)
    theirs: Any = field(init=False)
    invariance: Invariance = field(init=False)

    def __post_init__(self) -> None:
        self.stock, self.theirs = stock_model(self.target), stock_assistant(self.assistant)
        self.invariance = settle(make_runner(self.target))

    @property
    def verifier(self) -> VerifierSettings:
        return VerifierSettings(
            model=str(self.target), dtype="float32", max_context=128, prefill_chunk=8, threads=1, max_sessions=4
        )

    @property
    def drafter(self) -> DrafterSettings:
        return DrafterSettings(
            drafter="gemma_assistant",
            model=str(self.assistant),
            target=str(self.target),
            dtype="float32",
            max_context=128,
            max_sessions=4,
        )

    def backend(self, settings: VerifierSettings, clock: Clock) -> VerifierBackend:
        runner = make_runner(Path(settings.model))
        runner.min_rows = self.invariance.min_rows
        return Slow(TorchVerifier(runner, self.invariance, InlineWorker()), clock)

    def assistant_for(self, text: Tokens, settings: DrafterSettings, state: ports.TargetState | None = None) -> Helped:
        made = create_drafter(settings, state)
        warm_up(made)
        return Helped(made, text)

    def check(self, helped: Helped, *, is_inside: bool) -> None:
        """Whatever it said without help, the library says at that place too."""
        assert helped.said
        for context, tokens in helped.said:
            seen = look_at(self.stock, context)
            wanted = library_drafts(
                self.stock, self.theirs, context, len(tokens), seen if is_inside else from_afar(seen)
            )
            assert tokens == wanted


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    before = torch.get_num_threads()
    use_threads(1)
    target = write_model(tmp_path_factory.mktemp("target"), "gemma4_text", **TARGET)
    yield World(target, write_assistant(tmp_path_factory.mktemp("assistant")))
    torch.set_num_threads(before)


def request(law: SamplingParams, mode: DraftMode = DraftMode.PIPELINE) -> GenerateRequest:
    """Drafts are checked whether that pays or not."""
    drafts = {} if mode is DraftMode.PLAIN else {"max_draft": BLOCK, "min_draft": BLOCK}
    return GenerateRequest(PROMPT, sampling=law, seed=5, max_tokens=LENGTH, ignore_eos=True, mode=mode, **drafts)


async def plain(world: World, law: SamplingParams) -> Tokens:
    if law not in world.texts:
        async with local_system([verifier(world.verifier, world.backend)], ()) as running:
            world.texts[law] = (await running.complete(request(law, DraftMode.PLAIN))).token_ids
    return world.texts[law]


@asynccontextmanager
async def over_sockets(
    world: World, settings: CoordinatorSettings, helped: list[Helped], text: Tokens, *, is_inside: bool
) -> AsyncIterator[Client]:
    """With the assistant in the verifier, or in a service of its own."""

    def outside(of: DrafterSettings) -> Helped:
        helped.append(world.assistant_for(text, of))
        return helped[-1]

    def inside(of: VerifierSettings, info: object, state: ports.TargetState | None) -> Helped | None:
        if is_inside:
            helped.append(world.assistant_for(text, replace(world.drafter, target=""), state))
        return helped[-1] if is_inside else None

    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(serve_verifier(world.verifier, world.backend, make_resident=inside))
        pools = replace(settings, tokenizer="", verifiers=(target.address,))
        if not is_inside:
            guessing = await stack.enter_async_context(serve_drafter(world.drafter, outside))
            pools = replace(pools, drafters=(guessing.address,))
        front = await stack.enter_async_context(serve_coordinator(pools, UnreliableStore()))
        client = await stack.enter_async_context(Client(front.address))
        await until(lambda: all(one.healthy for one in front.runtime.describe().drafters))
        await front.runtime.wait_ready()
        yield client


@pytest.mark.parametrize("law", LAWS, ids=["greedy", "warm"])
@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "elsewhere"])
async def test_over_sockets_the_text_is_plain_and_the_drafts_are_the_librarys(
    world: World, settings: CoordinatorSettings, law: SamplingParams, is_inside: bool
) -> None:
    text, helped = await plain(world, law), list[Helped]()
    async with over_sockets(world, settings, helped, PROMPT + text, is_inside=is_inside) as client:
        done: Completion = await client.complete(request(law))
    assert done.token_ids == text
    speculative = done.finished.speculative
    if is_inside:  # elsewhere real time decides which drafts are not too late
        assert speculative.num_accepted_draft_tokens > 0
        assert speculative.draft_acceptance_rate < 1.0
    assert (speculative.num_feature_bytes > 0) is not is_inside
    if law.temperature == 0.0:
        world.check(helped[0], is_inside=is_inside)


async def _through(running: LocalSystem, law: SamplingParams, fault: Callable[[], object]) -> Tokens:
    """The text of a request, during which ``fault`` happens once and some drafts are right."""
    tokens: list[int] = []
    is_due, num_right = True, 0
    async for event in running.generate(request(law)):
        if isinstance(event, Chunk):
            tokens += event.token_ids
            if is_due and len(tokens) >= 8:
                fault()
                is_due = False
        elif isinstance(event, Finished):
            num_right = event.speculative.num_accepted_draft_tokens
    assert not is_due
    assert num_right > 4
    return tuple(tokens)


@pytest.mark.looptime
@pytest.mark.parametrize("law", LAWS, ids=["greedy", "warm"])
async def test_one_that_takes_over_in_mid_session_begins_with_a_whole_copy(world: World, law: SamplingParams) -> None:
    text = await plain(world, law)
    heirs = [world.assistant_for(PROMPT + text, world.drafter) for _ in range(2)]
    coming = iter(heirs)
    async with local_system(
        [verifier(world.verifier, world.backend)], [drafter(world.drafter, lambda _: next(coming))]
    ) as running:

        def replace_drafter() -> None:
            running.drafters[0].kill()
            running.drafters[0].start()

        assert await _through(running, law, replace_drafter) == text
    window = TARGET["sliding_window"] + 1
    for helped in heirs:
        (starts,) = helped.first_frames
        assert starts[0] == 0
        assert starts[1] <= max(0, len(helped.said[0][0]) - 1 - window)
        if law.temperature == 0.0:
            world.check(helped, is_inside=False)


@pytest.mark.looptime
@pytest.mark.parametrize("law", LAWS, ids=["greedy", "warm"])
async def test_another_verifier_in_mid_session_sends_what_the_first_one_would_have(
    world: World, law: SamplingParams
) -> None:
    text = await plain(world, law)
    helped = world.assistant_for(PROMPT + text, world.drafter)
    async with local_system(
        [verifier(world.verifier, world.backend)] * 2, [drafter(world.drafter, lambda _: helped)]
    ) as running:

        def lose_busy_verifier() -> None:
            next(one for one in running.verifiers if one.num_sessions).kill()

        assert await _through(running, law, lose_busy_verifier) == text
    assert max(len(context) for context, _ in helped.said) > len(PROMPT) + LENGTH - 12
    if law.temperature == 0.0:
        world.check(helped, is_inside=False)


@pytest.mark.looptime
async def test_a_target_with_other_weights_is_not_paired_with_it(world: World, tmp_path: Path) -> None:
    other = write_model(tmp_path, "gemma4_text", seed=8, **TARGET)
    helped = world.assistant_for((), world.drafter)
    async with local_system(
        [verifier(replace(world.verifier, model=str(other)), world.backend)], [drafter(world.drafter, lambda _: helped)]
    ) as running:
        done = await running.complete(request(LAWS[0]))
    assert len(done.token_ids) == LENGTH
    assert helped.said == []


def test_bytes_per_token_are_those_of_two_layers_and_a_hidden_state(world: World) -> None:
    needs = world.assistant_for((), world.drafter).info.needs
    per_token = sum(shape.row_bytes for shape in needs.kv) + needs.hidden_size * 2
    assert per_token == 2 * 2 * (32 + 16) * 2 + 64 * 2 == 512
