"""A sampled text can be replayed when it was drawn with the noise of its seed, as kept probabilities show."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from paceline.core.types import SamplingParams
from paceline.models.runner import ModelRunner
from paceline.training.generate import Generator, Job, Sample
from paceline.training.replayable import is_replayable
from tests.support.tiny_models import make_runner, random_tokens, write_model

NUM_TEXTS = 12


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return make_runner(write_model(tmp_path_factory.mktemp("target")), max_context=128, max_sessions=4)


def texts(runner: ModelRunner, temperature: float) -> list[Sample]:
    jobs = [(i, Job(tuple(random_tokens(5, seed=i)), temperature, 40, seed=i)) for i in range(NUM_TEXTS)]
    return [sample for _, sample in Generator(runner, num_top=16).run(jobs)]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 0.8, 2.0])
def test_every_text_that_is_generated_can_be_replayed(runner: ModelRunner, temperature: float) -> None:
    assert all(is_replayable(sample) for sample in texts(runner, temperature))


def test_texts_drawn_with_other_noise_can_not(runner: ModelRunner) -> None:
    drawn_otherwise = [dataclasses.replace(sample, seed=sample.seed + 1000) for sample in texts(runner, 0.8)]
    assert not any(is_replayable(sample) for sample in drawn_otherwise)


def test_where_nothing_was_kept_that_could_tell_they_can_not(runner: ModelRunner) -> None:
    bare = dataclasses.replace(texts(runner, 0.8)[0], top_ids=None, top_logprobs=None)
    assert not is_replayable(bare)
    assert is_replayable(dataclasses.replace(bare, temperature=0.0))


def test_what_was_served_was_drawn_by_the_service() -> None:
    law = SamplingParams(temperature=0.8, top_p=0.5, seed=1)
    assert is_replayable(Sample((1, 2, 3), 1, temperature=0.8, law=law))


def test_a_token_beyond_the_kept_ones_wins_only_with_noise_that_is_high_enough() -> None:
    """Two kept tokens of equal probability and one that is not kept, so that its own is at most theirs."""
    kept = {"top_ids": torch.tensor([[4, 5]]), "top_logprobs": torch.tensor([[-1.0, -1.0]]).bfloat16()}
    found = {is_replayable(Sample((1, 9), 1, temperature=1.0, seed=seed, **kept)) for seed in range(20)}
    assert found == {True, False}
