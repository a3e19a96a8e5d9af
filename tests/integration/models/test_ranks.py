"""A model on two ranks: the bits of a row depend on its own past only, and come close to those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paceline.config.settings import VerifierSettings
from paceline.models.invariance import settle
from paceline.models.runner import ModelRunner
from paceline.verifiers.crew import Crew
from paceline.verifiers.torch import load_runner
from tests.support.tiny_models import make_runner, random_tokens, run, write_model

FAMILIES = {
    "llama, an output layer of its own": ("llama", {"tie_word_embeddings": False}, "float32"),
    "qwen2, with biases and one matrix at both ends": ("qwen2", {"tie_word_embeddings": True}, "bfloat16"),
}
ROUNDING = {"float32": 1e-4, "bfloat16": 0.15}
LENGTH = 40


@pytest.fixture(scope="module", params=FAMILIES)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VerifierSettings:
    family, config, dtype = FAMILIES[request.param]
    directory = write_model(tmp_path_factory.mktemp(family), family, **config)
    return VerifierSettings(
        model=str(directory), dtype=dtype, tensor_parallel=2, threads=1, max_sessions=4, max_context=128
    )


@pytest.fixture(scope="module")
def runner(settings: VerifierSettings) -> Iterator[ModelRunner]:
    """Rank 0's."""
    crew = Crew.join(settings)
    assert crew is not None
    made = load_runner(settings, crew)
    assert made.led is not None
    yield made
    made.led.end()
    crew.stop()


@pytest.fixture(scope="module")
def alone(settings: VerifierSettings) -> ModelRunner:
    return make_runner(Path(settings.model), dtype=getattr(torch, settings.dtype))


def test_logits_are_those_of_one_process_but_for_rounding(
    settings: VerifierSettings, runner: ModelRunner, alone: ModelRunner
) -> None:
    tokens = random_tokens(LENGTH)
    together, expected = (run(one, tokens, [LENGTH]) for one in (runner, alone))
    assert torch.allclose(together, expected, atol=ROUNDING[settings.dtype], rtol=0)


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [7, 7, 7, 7, 7, 5], [39, 1]], ids=["ones", "sevens", "prefill"])
def test_grouping_changes_no_bit(runner: ModelRunner, sizes: list[int]) -> None:
    tokens = random_tokens(LENGTH)
    assert torch.equal(run(runner, tokens, sizes), run(runner, tokens, [LENGTH]))


def test_the_probe_holds_with_neighbours_and_beside_drafts_too(runner: ModelRunner) -> None:
    assert settle(runner).is_exact


def test_the_numerics_are_named_apart_from_those_of_one_process(runner: ModelRunner, alone: ModelRunner) -> None:
    assert runner.numerics_id != alone.numerics_id


def test_each_rank_holds_its_share_of_keys_and_values(runner: ModelRunner, alone: ModelRunner) -> None:
    for one in (runner, alone):
        run(one, random_tokens(3), [3])
    assert 2 * runner.token_bytes == alone.token_bytes
