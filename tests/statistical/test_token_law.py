"""The law of one token: what the parameters promise is what comes out of processors and noise together.

The target's chances are whole numbers, so that each expectation is worked out by hand. N = 200 thousand seeds each:
185 thousand reject any deviation of total variation .01 over these 11 tokens with power .99 at alpha = 10^-6. Seeds are
fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats
from support import many
from support.laws import ALPHA, chi_square, draws_needed, shifted
from support.many import Floats

from paceline.core.types import SamplingParams
from paceline.sampling.accept import sample
from paceline.sampling.processors import process

N = 200_000
POSITION = 9
CHANCES = (30, 20, 15, 10, 8, 6, 4, 3, 2, 1, 1)
LOG2, LOG5 = math.log(2.0), math.log(5.0)


def logits(shift: float = 0.0) -> Floats:
    return np.log(np.array(CHANCES, float)) + shift


@dataclass(frozen=True)
class Case:
    """Parameters, and how likely each token must be, up to a common factor."""

    params: dict[str, object]
    weights: tuple[float, ...]
    logits: Floats = field(default_factory=logits)
    context: tuple[int, ...] = (3, 0, 0, 1, 3)
    """The first token is prompt."""


def powers(exponent: float) -> tuple[float, ...]:
    return tuple(chance**exponent for chance in CHANCES)


def repeated(exponents: dict[int, float], divisor: float = 1.0) -> tuple[float, ...]:
    return tuple((chance / divisor) ** exponents.get(token, 1.0) for token, chance in enumerate(CHANCES))


NONE = (0,) * 11
CASES = {
    "the model's own law": Case({}, CHANCES),
    "a low temperature": Case({"temperature": 0.5}, powers(2.0)),
    "a high temperature": Case({"temperature": 2.0}, powers(0.5)),
    "the highest temperature": Case({"temperature": 10.0}, powers(0.1)),
    "top-k": Case({"top_k": 4}, (30, 20, 15, 10, *NONE[4:])),
    "top-k keeps ties": Case({"top_k": 10}, CHANCES),
    "top-p": Case({"top_p": 0.7}, (30, 20, 15, 10, *NONE[4:])),
    "top-p keeps the token that reaches it": Case({"top_p": 0.66}, (30, 20, 15, 10, *NONE[4:])),
    "top-p just before that token": Case({"top_p": 0.64}, (30, 20, 15, *NONE[3:])),
    "top-p after temperature": Case({"top_p": 0.6, "temperature": 0.5}, (900, 400, *NONE[2:])),
    "min-p": Case({"min_p": 0.25}, (30, 20, 15, 10, 8, *NONE[5:])),
    "min-p after temperature": Case({"min_p": 0.2, "temperature": 0.5}, (900, 400, 225, *NONE[3:])),
    "a frequency penalty": Case({"frequency_penalty": LOG2}, (30 / 4, 20 / 2, 15, 10 / 2, *CHANCES[4:])),
    "a presence penalty": Case({"presence_penalty": LOG2}, (30 / 2, 20 / 2, 15, 10 / 2, *CHANCES[4:])),
    "a negative presence penalty": Case({"presence_penalty": -LOG2}, (30 * 2, 20 * 2, 15, 10 * 2, *CHANCES[4:])),
    "a repetition penalty of likely tokens": Case({"repetition_penalty": 2.0}, repeated({0: 0.5, 1: 0.5, 3: 0.5})),
    "a repetition penalty of unlikely tokens": Case(
        {"repetition_penalty": 2.0}, repeated({0: 2.0, 1: 2.0, 3: 2.0}, 100), logits(-math.log(100.0))
    ),
    "a bias": Case({"logit_bias": ((10, LOG5), (9, -LOG5))}, (*CHANCES[:9], 1 / 5, 5)),
    "allowed tokens": Case({"allowed_tokens": (1, 4, 10)}, (0, 20, 0, 0, 8, *NONE[5:10], 1)),
    "banned tokens": Case({"banned_tokens": (0, 2)}, (0, 20, 0, *CHANCES[3:])),
    "all together": Case(
        # Penalised, biased and banned: 15 2 15 10 8 6 4 3 2 0 5; these are squared, and min-p drops what is below 9.
        # Top-k keeps 225 225 100 64, and top-p the first three: 550 of 614.
        {
            "frequency_penalty": LOG2, "logit_bias": ((0, LOG2), (1, -LOG5), (3, LOG2), (10, LOG5)),
            "banned_tokens": (9,), "temperature": 0.5, "min_p": 0.04, "top_k": 4, "top_p": 0.85,
        },
        (225, 0, 225, 100, *NONE[4:]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_tokens_have_the_promised_law_and_no_other_at_a_distance_of_a_hundredth(name: str) -> None:
    case = CASES[name]
    scores = process(case.logits, SamplingParams(**{"temperature": 1.0, **case.params}), case.context, 1)  # type: ignore[arg-type]
    keys = many.seeds(N)
    tokens = many.sample(scores[None], keys, POSITION)
    assert tokens[:50].tolist() == [sample(scores, int(key), POSITION, greedy=False) for key in keys[:50]]
    counts, law = np.bincount(tokens, minlength=11), np.array(case.weights, float)
    assert chi_square(counts, law) > ALPHA
    assert chi_square(counts, shifted(law)) < ALPHA
    assert draws_needed(11) <= N


def test_the_head_of_a_large_vocabulary_keeps_its_law() -> None:
    row = np.full(50_000, -3.0)
    head = np.random.default_rng(1).choice(50_000, size=11, replace=False)
    row[head] = logits()
    scores = process(row, SamplingParams(temperature=1.0, top_k=10), (), 0)
    tokens = many.sample(scores[None], many.seeds(N), POSITION)
    counts = np.bincount(tokens, minlength=50_000)
    assert counts[head].sum() == N
    assert chi_square(counts[head], np.array(CHANCES, float)) > ALPHA


def test_rare_tokens_come_as_often_as_they_should() -> None:
    """One in ten thousand, 20 expected. Binomial, two-sided alpha = 10^-6: 4 to 45 pass."""
    scores = process(np.array([0.0, -math.log(9999.0)]), SamplingParams(temperature=1.0), (), 0)
    rare = int((many.sample(scores[None], many.seeds(N), POSITION) == 1).sum())
    assert stats.binomtest(rare, N, 1e-4).pvalue > ALPHA
