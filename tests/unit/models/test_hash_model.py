"""The model made of hashes: a pure function of the last tokens."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.core.types import SamplingParams
from paceline.models.hash_model import ORDER, PEAKS, HashModel

CONTEXT = tuple(range(20))


def test_logits_depend_on_the_latest_tokens_only() -> None:
    model = HashModel(500)
    assert np.array_equal(model.logits(CONTEXT), HashModel(500).logits((99, *CONTEXT[-ORDER:])))
    assert not np.array_equal(model.logits(CONTEXT), model.logits((*CONTEXT[:-ORDER], 99, *CONTEXT[1 - ORDER :])))


def test_models_of_other_seeds_or_sizes_are_other_models() -> None:
    digests = {HashModel(500).digest, HashModel(500, seed=1).digest, HashModel(501).digest}
    assert len(digests) == 3
    assert not np.array_equal(HashModel(500).logits(CONTEXT), HashModel(500, seed=1).logits(CONTEXT))


@pytest.mark.parametrize("vocab_size", [2, 7, 500])
def test_the_greedy_token_is_the_largest_logit(vocab_size: int) -> None:
    model = HashModel(vocab_size)
    for length in range(1, 60):
        context = tuple(range(length))
        row = model.logits(context)
        assert model.next_token(context, SamplingParams(), 1) == int(np.argmax(row))
        assert model.peaks(context) == np.argsort(-row, kind="stable")[: len(model.peaks(context))].tolist()


def test_peaks_stand_out() -> None:
    row = np.sort(HashModel(500).logits(CONTEXT))[::-1]
    assert row[: len(PEAKS)].tolist() == list(PEAKS)
    assert row[len(PEAKS)] < 1.0
