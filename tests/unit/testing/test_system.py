"""A whole system in one event loop, in virtual time: what its users may rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from looptime import LoopTimeProxy

from paceline.config.settings import DrafterSettings
from paceline.core.errors import DeadlineExceeded, Unavailable
from paceline.core.requests import Chunk, DraftMode, Finished, GenerateRequest, Started
from paceline.core.types import SamplingParams, StepItem, StepResult
from paceline.testing.letters import CHAT, LETTERS, letters
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import VERIFIER, drafter, local_system, verifier
from paceline.verifiers.synthetic import SyntheticVerifier

pytestmark = pytest.mark.looptime
PROMPT = (1, 2, 3)


async def test_it_answers_as_the_model_alone_would(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        completion = await system.complete(GenerateRequest(PROMPT, max_tokens=40))
    assert completion.token_ids == reference(PROMPT, 40)


async def test_the_events_of_a_request_come_as_the_port_says() -> None:
    async with local_system() as system:
        events = [event async for event in system.generate(GenerateRequest(PROMPT, max_tokens=12))]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    chunks = [event for event in events[1:-1] if isinstance(event, Chunk)]
    assert len(chunks) == len(events) - 2
    assert sum((chunk.token_ids for chunk in chunks), ()) == reference(PROMPT, 12)


async def test_time_is_exact_where_time_is_virtual(looptime: LoopTimeProxy) -> None:
    async with local_system(drafters=()) as system:
        completion = await system.complete(GenerateRequest(PROMPT, max_tokens=40))
    assert float(looptime) == pytest.approx(40 * VERIFIER.synthetic.step_base_s)
    assert completion.finished.total_s == pytest.approx(0.4)
    assert completion.finished.first_token_s == pytest.approx(0.01)


async def test_drafts_save_virtual_time(looptime: LoopTimeProxy) -> None:
    async with local_system() as system:
        completion = await system.complete(GenerateRequest(PROMPT, max_tokens=40))
    metrics = completion.finished.speculative
    assert metrics.num_accepted_draft_tokens > 10
    assert float(looptime) == pytest.approx(0.01 * metrics.num_steps)


async def test_text_is_made_of_letters() -> None:
    async with local_system(tokenizer=letters(CHAT)) as system:
        completion = await system.complete(GenerateRequest("Hello you", max_tokens=20))
    prompt = tuple(LETTERS.index(letter) for letter in "Hello you")
    assert completion.started.prompt_tokens == 9
    assert completion.token_ids == reference(prompt, 20)
    assert completion.text == "".join(LETTERS[token] for token in completion.token_ids)


async def test_a_killed_member_forgets_its_sessions_and_may_start_again() -> None:
    async with local_system() as system:
        events = system.generate(GenerateRequest(PROMPT, max_tokens=40))
        assert isinstance(await anext(events), Started)
        await anext(events)
        assert [party.num_sessions for party in system.parties] == [1, 1]
        system.verifiers[0].kill()
        assert system.verifiers[0].num_sessions == 0
        await system.wait_healthy(0, 1)
        system.verifiers[0].start()
        await system.wait_healthy(1, 1)
        rest = [event async for event in events]
    assert isinstance(rest[-1], Finished)


async def test_a_member_that_was_cut_off_keeps_running_and_is_found_again() -> None:
    async with local_system() as system:
        runtime = system.verifiers[0].runtime
        system.verifiers[0].cut()
        await system.wait_healthy(0, 1)
        await system.wait_healthy(1, 1)
        assert system.verifiers[0].runtime is runtime


async def test_what_a_member_died_of_is_raised_in_the_end() -> None:
    class Broken(SyntheticVerifier):
        async def step(self, items: Sequence[StepItem]) -> StepResult:
            raise RuntimeError("no memory left")

    async def lose_the_verifier() -> None:
        async with local_system([verifier(make=Broken)]) as system:
            with pytest.raises(DeadlineExceeded, match="without a verifier"):
                await system.complete(GenerateRequest(PROMPT, max_tokens=4, deadline_s=1.0))

    with pytest.raises(RuntimeError, match="no memory left"):
        await lose_the_verifier()


async def test_nothing_runs_on_after_the_block() -> None:
    before = asyncio.all_tasks()
    async with local_system([verifier()] * 2, [drafter()] * 2) as system:
        events = system.generate(GenerateRequest(PROMPT, max_tokens=40))
        await anext(events)
    with pytest.raises(Unavailable, match="shutting down"):
        [event async for event in events]
    assert asyncio.all_tasks() == before


async def test_plain_decoding_needs_no_drafter_at_all() -> None:
    request = GenerateRequest(
        PROMPT, max_tokens=30, seed=5, sampling=SamplingParams(temperature=0.8), mode=DraftMode.PLAIN
    )
    async with local_system(drafters=()) as system:
        completion = await system.complete(request)
    assert completion.token_ids == reference(PROMPT, 30, sampling=SamplingParams(temperature=0.8, seed=5))
    assert completion.finished.speculative.num_draft_tokens == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("parts", ["suffix,ngram", "synthetic,random", "random,synthetic,suffix"])
async def test_a_mix_of_drafters_never_changes_the_text(parts: str, temperature: float) -> None:
    made = DrafterSettings(drafter=f"mix:{parts}", vocab_size=SYNTHETIC.vocab_size, synthetic=SYNTHETIC)
    law = SamplingParams(temperature=temperature)
    async with local_system(drafters=[drafter(made)]) as system:
        completion = await system.complete(GenerateRequest(PROMPT, max_tokens=60, seed=5, sampling=law))
    assert completion.token_ids == reference(PROMPT, 60, sampling=SamplingParams(temperature=temperature, seed=5))


async def test_a_mix_soon_drafts_like_the_better_of_its_parts() -> None:
    """200 tokens: a part that is never right may cost a tenth of the steps."""
    steps = {}
    for name in ("synthetic", "mix:random,synthetic"):
        made = DrafterSettings(drafter=name, vocab_size=SYNTHETIC.vocab_size, synthetic=SYNTHETIC)
        async with local_system(drafters=[drafter(made)]) as system:
            completion = await system.complete(GenerateRequest(PROMPT, max_tokens=200))
        steps[name] = completion.finished.speculative.num_steps
    assert steps["mix:random,synthetic"] <= 1.1 * steps["synthetic"] < 0.5 * 200
