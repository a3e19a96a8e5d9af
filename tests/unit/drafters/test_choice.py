"""Drafters by name, and the two that only tests and experiments use."""

from __future__ import annotations

import pytest

from paceline.config.settings import DrafterSettings, SyntheticSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DraftJob, SamplingParams, SessionSpec, StopRules
from paceline.drafters import create_drafter
from paceline.drafters.random import RandomDrafter
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.models.hash_model import HashModel


def test_an_unknown_drafter_is_refused_with_the_choice() -> None:
    names = "suffix, ngram, model, random, synthetic, mtp, medusa, mix, gemma_assistant"
    with pytest.raises(InvalidRequest, match=f"choose one of {names}"):
        create_drafter(DrafterSettings(drafter="oracle"))


@pytest.mark.parametrize("name", ["suffix", "ngram", "random", "synthetic"])
def test_the_settings_decide_how_many_sessions_there_may_be(name: str) -> None:
    info = create_drafter(DrafterSettings(drafter=name, max_sessions=5)).info
    assert (info.name, info.max_sessions) == (name, 5)


def test_random_guesses_fill_the_vocabulary() -> None:
    drafter = RandomDrafter(1, vocab_size=10)
    guess = drafter.extend([DraftJob("s", (1,), 1, 500)])[0]
    assert set(guess.token_ids) == set(range(10))


@pytest.mark.parametrize("agreement", [0.0, 0.7, 1.0])
def test_the_synthetic_drafter_agrees_as_often_as_it_is_told(agreement: float) -> None:
    """1,000 guesses; a deviation of 5 standard errors happens once in a million such tests."""
    settings = SyntheticSettings(vocab_size=500, agreement=agreement)
    drafter, model = SyntheticDrafter(1, settings), HashModel(500)
    drafter.open(SessionSpec("s", (1,), 1, SamplingParams(), StopRules(9)))
    guess = drafter.extend([DraftJob("s", (1,), 1, 1_000)])[0]
    context, agreed = [1], 0
    for token in guess.token_ids:
        agreed += token == model.next_token(context, SamplingParams(), 1)
        context.append(token)
    assert abs(agreed - 1_000 * agreement) <= 5 * (1_000 * agreement * (1 - agreement)) ** 0.5
