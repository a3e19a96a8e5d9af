"""The likelihood of a text: the served logits, one pass, however long it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import VOCAB, make_runner, stock_model, write_model

from paceline.models.scoring import CHUNK, TextScorer


def expected(directory: Path, prompt: tuple[int, ...], output: tuple[int, ...]) -> float:
    with torch.inference_mode():
        logits = stock_model(directory)(torch.tensor([[*prompt, *output]])).logits[0]
    chances = logits.double().log_softmax(-1)
    return float(sum(chances[len(prompt) - 1 + index, token] for index, token in enumerate(output)))


@pytest.mark.parametrize(("num_prompt", "num_output"), [(1, 1), (3, 7), (CHUNK, 4), (CHUNK + 2, 60), (20, CHUNK + 9)])
def test_it_is_the_sum_of_log_probabilities_of_the_output_alone(
    tmp_path: Path, num_prompt: int, num_output: int
) -> None:
    directory = write_model(tmp_path)
    text = tuple((7 * index + 3) % VOCAB for index in range(num_prompt + num_output))
    scorer = TextScorer(make_runner(directory, max_context=256))
    value = scorer.log_likelihood(text[:num_prompt], text[num_prompt:])
    assert value == pytest.approx(expected(directory, text[:num_prompt], text[num_prompt:]), rel=1e-4)
    assert scorer.log_likelihood(text[:num_prompt], text[num_prompt:]) == value


def test_an_empty_output_has_no_likelihood_to_add(tmp_path: Path) -> None:
    assert TextScorer(make_runner(write_model(tmp_path))).log_likelihood((1, 2), ()) == 0.0
