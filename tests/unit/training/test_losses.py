"""The loss of a place, against the same formula written out one row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.training.losses import Lesson, LossWeights, place_loss

VOCAB, ROWS, TOP = 7, 5, 3
WEIGHTS = [LossWeights(soft=0.0), LossWeights(soft=1.0), LossWeights(), LossWeights(overlap=0.7)]


def make(seed: int) -> tuple[torch.Tensor, Lesson]:
    """Tokens that the drafter does not know, and rows that are not scored, among the others."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(ROWS, VOCAB, generator=generator)
    top = torch.rand(ROWS, VOCAB, generator=generator).argsort(-1)[:, :TOP]
    top = torch.where(torch.rand(ROWS, TOP, generator=generator) < 0.3, VOCAB, top)
    logprobs = torch.randn(ROWS, TOP + 1, generator=generator).log_softmax(-1)[:, :TOP]
    targets = torch.randint(0, VOCAB + 1, (ROWS,), generator=generator)
    return logits, Lesson(targets, torch.rand(ROWS, generator=generator) < 0.8, top, logprobs)


def slow(logits: torch.Tensor, lesson: Lesson, weights: LossWeights) -> float:
    total, num_scored = 0.0, 0
    for row in range(ROWS):
        if not lesson.is_scored[row]:
            continue
        num_scored += 1
        target = int(lesson.targets[row])
        if target == VOCAB:
            continue
        scores = [math.exp(one) for one in logits[row].tolist()]
        q = [score / sum(scores) for score in scores]
        p = {int(i): math.exp(x) for i, x in zip(lesson.top_ids[row], lesson.top_logprobs[row], strict=True)}
        known = {token: chance for token, chance in p.items() if token < VOCAB}
        total += (1 - weights.soft) * -math.log(q[target])
        total += weights.soft * sum(-chance * math.log(q[token]) for token, chance in known.items())
        if weights.overlap:
            total -= weights.overlap * math.log(sum(min(c, q[token]) for token, c in known.items()) + 1e-6)
    return total / max(num_scored, 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.sampled_from(WEIGHTS))
def test_it_is_the_formula(seed: int, weights: LossWeights) -> None:
    logits, lesson = make(seed)
    assert float(place_loss(logits, lesson, weights)) == pytest.approx(slow(logits, lesson, weights), abs=1e-5)


def whole_law(logits: torch.Tensor, p: torch.Tensor, is_scored: bool = True) -> Lesson:
    """A lesson that gives the whole distribution p [vocab]."""
    ids = torch.arange(VOCAB).expand(len(logits), -1)
    scored = torch.full((len(logits),), is_scored)
    return Lesson(torch.zeros(len(logits), dtype=torch.long), scored, ids, p.log().expand(len(logits), -1))


def test_the_overlap_term_is_minus_the_logarithm_of_the_acceptance_rate() -> None:
    """A draft token x ~ q is kept with min(1, p / q): at all with the chance sum(min(p, q))."""
    generator = torch.Generator().manual_seed(3)
    logits, p = torch.randn(1, VOCAB, generator=generator), torch.randn(VOCAB, generator=generator).softmax(-1)
    lesson, q = whole_law(logits, p), logits.softmax(-1)[0]
    rate = float((q * torch.clamp(p / q, max=1.0)).sum())
    with_it, without = (float(place_loss(logits, lesson, LossWeights(overlap=one))) for one in (1.0, 0.0))
    assert with_it - without == pytest.approx(-math.log(rate), abs=1e-5)
    perfect = p.log()[None]
    same = [float(place_loss(perfect, whole_law(perfect, p), LossWeights(overlap=one))) for one in (1.0, 0.0)]
    assert same[0] - same[1] == pytest.approx(0.0, abs=1e-5)


def test_the_distributions_term_is_least_at_the_distribution() -> None:
    p = torch.randn(VOCAB, generator=torch.Generator().manual_seed(4)).softmax(-1)
    logits = p.log()[None].clone().requires_grad_()
    place_loss(logits, whole_law(logits, p), LossWeights(soft=1.0)).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(1, VOCAB), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rows_that_do_not_count_and_tokens_that_cannot_be_said_teach_nothing(weights: LossWeights) -> None:
    logits, lesson = make(1)
    idle = Lesson(
        torch.tensor([VOCAB, 0, VOCAB, 1, VOCAB]),
        torch.tensor([True, False, True, True, False]),
        lesson.top_ids,
        lesson.top_logprobs,
    )
    logits.requires_grad_()
    place_loss(logits, idle, weights).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).gt(0).tolist() == [False, False, False, True, False]


def test_a_place_without_rows_costs_nothing() -> None:
    logits, lesson = make(2)
    none = Lesson(lesson.targets, torch.zeros(ROWS, dtype=torch.bool), lesson.top_ids, lesson.top_logprobs)
    assert float(place_loss(logits, none, LossWeights(overlap=1.0))) == 0.0
    empty = Lesson(*(column[:0] for column in (none.targets, none.is_scored, none.top_ids, none.top_logprobs)))
    assert float(place_loss(logits[:0], empty, LossWeights(overlap=1.0))) == 0.0
