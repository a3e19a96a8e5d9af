"""Whatever drafts, however long, however many at once: the text is the one that the model alone would have written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from paceline.config.settings import CoordinatorSettings, DrafterSettings
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import DraftJob, FinishReason, Guess, SamplingParams, Tokens
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.testing import reference as model
from paceline.testing.letters import LETTERS, letters
from paceline.testing.parties import MakeDrafter
from paceline.testing.reference import SYNTHETIC
from paceline.testing.system import VERIFIER, LocalSystem, drafter, local_system, verifier

pytestmark = pytest.mark.looptime
VOCAB = len(LETTERS)
MAX_TOKENS = 20

PROMPTS: tuple[Tokens, ...] = (
    (5,),
    tuple(range(VOCAB)),
    tuple((7 * index) % VOCAB for index in range(300)),
)
LAWS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.95, seed=1),
    SamplingParams(temperature=0.8, top_p=0.95, seed=2),
    SamplingParams(temperature=1.5, top_k=5, min_p=0.02, seed=2**64 - 1),
    SamplingParams(temperature=0.7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, seed=3),
    SamplingParams(logit_bias=((3, 9.0), (9, -100.0)), banned_tokens=(5, 6), repetition_penalty=1.5),
)
DRAFT_LENGTHS = (1, 4, 12)


def agreeing(rate: float) -> MakeDrafter:
    return drafter(DrafterSettings(drafter="synthetic", synthetic=replace(SYNTHETIC, agreement=rate)))


DRAFTERS: dict[str, MakeDrafter] = {
    "random": drafter(DrafterSettings(drafter="random", vocab_size=VOCAB)),
    "always wrong": agreeing(0.0),
    "often wrong": agreeing(0.5),
    "often right": agreeing(0.8),
    "always right": agreeing(1.0),
    "ngram": drafter(DrafterSettings(drafter="ngram")),
    "suffix": drafter(DrafterSettings(drafter="suffix")),
}


@cache
def reference(prompt: Tokens, law: SamplingParams) -> Tokens:
    return model.reference(prompt, MAX_TOKENS, sampling=law)


async def differences(system: LocalSystem, max_draft: int, concurrency: int) -> tuple[list[str], int]:
    """What came out wrong, and how many draft tokens were accepted."""
    cases = [(prompt, law) for prompt in PROMPTS for law in LAWS]
    limit = asyncio.Semaphore(concurrency)

    async def run(prompt: Tokens, law: SamplingParams) -> tuple[str, int]:
        request = GenerateRequest(prompt, sampling=law, seed=law.seed, max_tokens=MAX_TOKENS, max_draft=max_draft)
        async with limit:
            completion = await system.complete(request)
        accepted = completion.finished.speculative.num_accepted_draft_tokens
        return ("" if completion.token_ids == reference(prompt, law) else f"{len(prompt)} {law}"), accepted

    results = await asyncio.gather(*(run(prompt, law) for prompt, law in cases))
    return [wrong for wrong, _ in results if wrong], sum(accepted for _, accepted in results)


@pytest.mark.parametrize("name", DRAFTERS)
async def test_no_drafter_changes_a_single_token(name: str) -> None:
    async with local_system(drafters=[DRAFTERS[name]]) as system:
        for max_draft in DRAFT_LENGTHS:
            concurrency = 1 if max_draft == 1 else 8
            wrong, accepted = await differences(system, max_draft, concurrency)
            assert wrong == []
            assert accepted == 0 or name != "always wrong"
            assert accepted > 0 or name not in ("often right", "always right")


async def test_many_requests_with_many_drafters_and_few_slots_change_nothing_either() -> None:
    settings = replace(VERIFIER, max_sessions=5, token_budget=24, prefill_chunk=16)
    async with local_system([verifier(settings)] * 2, [*DRAFTERS.values()]) as system:
        wrong, accepted = await differences(system, 8, 24)
    assert wrong == []
    assert accepted > 0


async def test_plain_mode_gives_the_same_text() -> None:
    async with local_system() as system:
        for law in LAWS:
            request = GenerateRequest(PROMPTS[0], sampling=law, seed=law.seed, max_tokens=MAX_TOKENS)
            plain = await system.complete(replace(request, mode=DraftMode.PLAIN))
            assert plain.token_ids == reference(PROMPTS[0], law)
            assert plain.finished.speculative.num_draft_tokens == 0


class Hostile(SyntheticDrafter):
    """Every kind of nonsense in turn, and a right guess in between."""

    calls = 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.calls += 1
        nonsense = [
            Guess(jobs[0].session, (VOCAB + 5,)),
            Guess(jobs[0].session, (1, 2, 3), (0.5, 0.5, 0.5)),
            Guess(jobs[0].session, (3,) * 300),
            Guess(jobs[0].session, (2**32 - 1, 0)),
        ]
        guesses = super().extend([replace(job, context=job.context[: job.committed]) for job in jobs])
        if self.calls % 2:
            guesses[0] = nonsense[self.calls // 2 % len(nonsense)]
        return guesses


async def test_a_hostile_drafter_costs_at_most_its_drafts() -> None:
    hostile = drafter(make=lambda settings: Hostile(64, replace(SYNTHETIC, agreement=1.0)))
    async with local_system(drafters=[hostile]) as system:
        wrong, _ = await differences(system, 8, 4)
    assert wrong == []


async def test_a_small_credit_changes_nothing() -> None:
    async with local_system(settings=CoordinatorSettings(commit_credit=3)) as system:
        wrong, accepted = await differences(system, 8, 8)
    assert wrong == []
    assert accepted > 0


@pytest.mark.parametrize("stop", ["x", "ab", "e", "Q7"])
@pytest.mark.parametrize("max_draft", [0, 16])
async def test_stop_strings_cut_text_tokens_and_usage_at_one_place(stop: str, max_draft: int) -> None:
    async with local_system(drafters=[agreeing(1.0)], tokenizer=letters()) as system:
        for law in LAWS:
            request = GenerateRequest(
                PROMPTS[0], sampling=law, seed=law.seed, max_tokens=MAX_TOKENS, max_draft=max_draft, stop=(stop,)
            )
            completion = await system.complete(request)
            text = "".join(LETTERS[token] for token in reference(PROMPTS[0], law))
            place = text.find(stop)
            assert completion.text == (text if place < 0 else text[:place])
            assert len(completion.token_ids) == (len(text) if place < 0 else place + len(stop))
            assert completion.finished.usage.completion_tokens == len(completion.token_ids)
            assert completion.finished.reason is (FinishReason.LENGTH if place < 0 else FinishReason.STOP)
            assert (await system.store.read(completion.started.session)).tokens == completion.token_ids
