"""From torch logits to a token: equal to the numpy specification for all parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.types import SamplingParams
from paceline.models.sampling import RowSampler
from paceline.sampling.accept import sample
from paceline.sampling.processors import process

VOCAB = 23
TOKENS = st.integers(0, VOCAB - 1)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 1e-3, 0.8, 1.0, 10.0]),
    top_k=st.sampled_from([0, 1, 3, VOCAB, 100]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-9]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -1.0]),
    logit_bias=st.lists(st.tuples(TOKENS, st.floats(-5, 5)), max_size=3).map(tuple),
    allowed_tokens=st.one_of(st.just(()), st.sets(TOKENS, min_size=12).map(tuple)),
    banned_tokens=st.sets(TOKENS, max_size=5).map(tuple),
    seed=st.integers(0, 2**64 - 1),
)
LOGITS = st.lists(st.sampled_from([-7.0, -1.5, 0.0, 0.25, 2.0, 2.5, 6.0]), min_size=VOCAB, max_size=VOCAB)


@settings(deadline=None, max_examples=400)  # kernels may be compiled first
@given(PARAMS, LOGITS, st.lists(TOKENS, min_size=1, max_size=12), st.integers(0, 12), st.booleans())
def test_it_draws_what_the_specification_draws(
    params: SamplingParams, row: list[float], context: list[int], prompt: int, is_bf16: bool
) -> None:
    logits = torch.tensor(row, dtype=torch.bfloat16 if is_bf16 else torch.float32)
    prompt_length = min(prompt, len(context))
    sampler = RowSampler(params, prompt_length)
    scores = process(logits.float().numpy(), params, context, prompt_length)
    expected = sample(scores, params.seed, len(context), greedy=params.temperature == 0.0)
    given_context = context if sampler.needs_context else ()
    assert sampler.next_token(logits, given_context, len(context)) == expected
    assert torch.equal(logits, torch.tensor(row, dtype=logits.dtype))


def test_the_context_is_only_asked_for_where_it_matters() -> None:
    assert not RowSampler(SamplingParams(), 1).needs_context
    assert not RowSampler(SamplingParams(temperature=0.8, top_p=0.9), 1).needs_context
    assert RowSampler(SamplingParams(repetition_penalty=1.1), 1).needs_context


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_greedy_ties_of_a_whole_vocabulary_go_to_the_lowest_id(dtype: torch.dtype) -> None:
    logits = torch.zeros(49_152, dtype=dtype)
    logits[[40_000, 777, 49_151]] = 3.0
    assert RowSampler(SamplingParams(), 1).next_token(logits, (), 1) == 777


def test_a_position_has_its_own_noise_and_a_seed_its_own_text() -> None:
    logits = torch.zeros(1000)
    sampler, other = (RowSampler(SamplingParams(temperature=1.0, seed=seed), 1) for seed in (1, 2))
    tokens = [sampler.next_token(logits, (), position) for position in range(20)]
    assert tokens == [sampler.next_token(logits, (), position) for position in range(20)]
    assert len(set(tokens)) > 10
    assert tokens != [other.next_token(logits, (), position) for position in range(20)]
    assert np.ptp(tokens) > 100
