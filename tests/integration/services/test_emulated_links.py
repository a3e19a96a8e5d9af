"""Whole systems over emulated networks, in virtual time: the text never changes, and what hides a round trip does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from paceline.config.settings import CoordinatorSettings, DrafterSettings, SyntheticSettings, VerifierSettings
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import drafter, local_system, verifier

pytestmark = pytest.mark.looptime
PROMPT = (3, 1, 4, 1, 5)
LENGTH = 60
LINKS = ("rtt=3ms", "rtt=30ms,jitter=80%", "rtt=1s", "rtt=5ms,bandwidth=20kbit", "rtt=20ms,lost_every=300ms")
WARM = SamplingParams(temperature=0.8, top_p=0.95)


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("link", LINKS)
async def test_no_network_changes_a_token(link: str, sampling: SamplingParams) -> None:
    settings = CoordinatorSettings(drafter_link=link, verifier_link=link)
    requests = [
        GenerateRequest((*PROMPT, index), sampling=sampling, seed=index, max_tokens=LENGTH) for index in range(4)
    ]
    async with local_system([verifier()] * 2, [drafter()] * 2, settings=settings) as system:
        done = await asyncio.gather(*(system.complete(request) for request in requests))
    assert [one.token_ids for one in done] == [
        reference((*PROMPT, index), LENGTH, sampling=replace(sampling, seed=index)) for index in range(4)
    ]


QUALITY = SyntheticSettings(
    vocab_size=SYNTHETIC.vocab_size, step_base_s=0.03, step_row_s=0.0003, alternatives=3, call_token_s=0.002
)


@pytest.mark.parametrize("sampling", [SamplingParams(), WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("mode", list(DraftMode))
async def test_every_mode_gives_the_same_tokens_to_8_sessions_at_once(
    mode: DraftMode, sampling: SamplingParams
) -> None:
    link = "rtt=9ms,jitter=20%,lost_every=500ms"
    settings = CoordinatorSettings(drafter_link=link, verifier_link="rtt=2ms,jitter=50%")
    pool = [drafter(DrafterSettings(drafter="synthetic", synthetic=QUALITY))] * 2
    lodger = partial(SyntheticDrafter, 16, QUALITY)
    verifiers = [verifier(VerifierSettings(backend="synthetic", synthetic=QUALITY), resident=lambda target: lodger())]
    requests = [
        GenerateRequest((*PROMPT, index), sampling=sampling, seed=index, max_tokens=LENGTH, mode=mode)
        for index in range(8)
    ]
    async with local_system(verifiers, pool, settings=settings) as system:
        done = await asyncio.gather(*(system.complete(request) for request in requests))
    assert [one.token_ids for one in done] == [
        reference((*PROMPT, index), LENGTH, sampling=replace(sampling, seed=index), settings=QUALITY)
        for index in range(8)
    ]


async def _seconds(link: str, agreement: float) -> float:
    """Of the loop, for one text with drafts."""
    guesses = drafter(DrafterSettings(drafter="synthetic", synthetic=replace(SYNTHETIC, agreement=agreement)))
    async with local_system([verifier()], [guesses], settings=CoordinatorSettings(drafter_link=link)) as system:
        began = asyncio.get_running_loop().time()
        done = await system.complete(GenerateRequest(PROMPT, max_tokens=LENGTH))
        assert done.token_ids == reference(PROMPT, LENGTH)
        return asyncio.get_running_loop().time() - began


async def test_while_all_guesses_are_right_a_round_trip_is_paid_once() -> None:
    near, far = await _seconds("", 1.0), await _seconds("rtt=8ms", 1.0)
    assert far <= near + 2 * SYNTHETIC.step_base_s


async def test_with_a_drafter_too_far_away_to_help_no_time_is_lost() -> None:
    assert await _seconds("rtt=4s", 0.8) <= 1.05 * LENGTH * SYNTHETIC.step_base_s + 2 * SYNTHETIC.step_base_s
