"""Choices of a drafter that knows some tokens: the target's draws over those, and how likely each is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paceline.core.types import SamplingParams
from paceline.drafters.trimmed import TrimmedSampler
from paceline.models.sampling import RowSampler
from paceline.sampling.noise import gumbel

VOCAB, IDS = 50, np.arange(1, 50, 3)
CONTEXT, POSITION = (4, 7, 7, 10, 2), 5
LAWS = [
    SamplingParams(),
    SamplingParams(temperature=0.9, seed=5),
    SamplingParams(temperature=0.9, seed=5, top_k=6),
    SamplingParams(repetition_penalty=1.3, logit_bias=((4, 3.0),)),
    SamplingParams(temperature=0.7, seed=3, presence_penalty=1.0),
]


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(len(IDS), generator=torch.Generator().manual_seed(seed))


def sampler(law: SamplingParams) -> TrimmedSampler:
    return TrimmedSampler(law, 2, IDS, VOCAB)


def successive_draws(row: torch.Tensor, law: SamplingParams, count: int) -> list[int]:
    """Of the target's own sampler, each without the tokens before it."""
    whole = torch.full((VOCAB,), -torch.inf)
    whole[torch.from_numpy(IDS)] = row
    out: list[int] = []
    for _ in range(count):
        out.append(RowSampler(law, 2).next_token(whole, CONTEXT, POSITION))
        whole[out[-1]] = -torch.inf
    return out


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", range(5))
def test_choices_are_what_would_be_drawn_one_after_another(law: SamplingParams, seed: int) -> None:
    found = sampler(law).choices(logits(seed), CONTEXT, POSITION, 3)
    assert found[0][0] == successive_draws(logits(seed), law, 1)[0]
    if not law.top_k:
        assert [token for token, _ in found] == successive_draws(logits(seed), law, 3)


def test_what_the_law_drops_is_no_choice() -> None:
    law = SamplingParams(temperature=0.9, seed=5, top_k=2)
    found = [token for token, _ in sampler(law).choices(logits(0), CONTEXT, POSITION, 9)]
    assert sorted(found) == sorted(IDS[logits(0).topk(2).indices])


@pytest.mark.parametrize("law", LAWS)
def test_chances_fall_and_sum_to_one_at_most(law: SamplingParams) -> None:
    chances = [math.exp(one) for _, one in sampler(law).choices(logits(1), CONTEXT, POSITION, len(IDS))]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1.0 if not law.top_k else min(1.0, sum(chances)), abs=1e-5)


def test_greedily_a_chance_is_the_drafters_own() -> None:
    expected = logits(2).log_softmax(-1).topk(4)
    found = sampler(SamplingParams()).choices(logits(2), CONTEXT, POSITION, 4)
    assert [token for token, _ in found] == IDS[expected.indices].tolist()
    assert [one for _, one in found] == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("top_k", [0, 5])
def test_at_a_temperature_a_chance_knows_the_noise_and_what_the_law_drops(top_k: int) -> None:
    """As if the target's logits were the drafter's with the noise in them, give or take the same doubt as ever."""
    law, row = SamplingParams(temperature=0.8, seed=7, top_k=top_k), logits(3)
    kept = row.topk(top_k or len(IDS)).indices.sort().values
    noisy = row[kept].double() + 0.8 * torch.from_numpy(gumbel(7, POSITION, IDS[kept]))
    share = row.softmax(-1)[kept].sum().log()
    expected = (noisy.log_softmax(-1) + share).topk(3)
    found = sampler(law).choices(row, CONTEXT, POSITION, 3)
    assert [token for token, _ in found] == IDS[kept[expected.indices]].tolist()
    assert [one for _, one in found] == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_there_are_no_more_choices_than_tokens_that_may_be_said() -> None:
    law = SamplingParams(allowed_tokens=(4, 5, 6), banned_tokens=(5,))  # 6 is not known to the drafter
    assert sampler(law).choices(logits(0), CONTEXT, POSITION, 4) == [(4, pytest.approx(0.0))]
