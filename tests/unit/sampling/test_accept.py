"""What the three rules make of a draft: exact properties, token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.sampling.accept import (
    Probs,
    Verdict,
    accept_block,
    accept_chain,
    accept_coupled,
    draw,
    residual,
    sample,
)
from paceline.sampling.noise import gumbel

ALMOST_ONE = 1.0 - 2.0**-53
SEEDS = st.integers(0, 2**64 - 1)
RULES = [accept_chain, accept_block]


def random_rows(rng: np.random.Generator, rows: int, vocab: int, zeros: bool = False) -> Probs:
    """Random distributions, some with tokens of no weight."""
    weights = rng.exponential(size=(rows, vocab)) ** 2
    if zeros:
        weights *= rng.random((rows, vocab)) < 0.6
        weights[np.arange(rows), rng.integers(vocab, size=rows)] += 0.5
    out: Probs = weights / weights.sum(axis=1, keepdims=True)
    return out


@st.composite
def problems(draw_from: st.DrawFn) -> tuple[np.random.Generator, int, int]:
    """A generator, a draft length and a vocabulary size."""
    rng = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    return rng, draw_from(st.integers(1, 5)), draw_from(st.integers(2, 6))


# --- coupled ---------------------------------------------------------------------------------------------------------


def row_after(context: tuple[int, ...], model: int, vocab: int) -> Probs:
    """A target whose scores depend on everything before; some tokens are dropped."""
    rng = np.random.default_rng((model, *context))
    scores = 2.0 * rng.standard_normal(vocab)
    scores[rng.random(vocab) < 0.3] = -np.inf
    scores[rng.integers(vocab)] = 0.5
    return scores


def decode_plainly(prompt: tuple[int, ...], n: int, seed: int, model: int, vocab: int, greedy: bool) -> tuple[int, ...]:
    context = prompt
    for _ in range(n):
        context += (sample(row_after(context, model, vocab), seed, len(context), greedy=greedy),)
    return context[len(prompt) :]


@given(
    model=st.integers(0, 2**31),
    seed=SEEDS,
    prompt=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    draft=st.lists(st.integers(0, 4), max_size=5),
    greedy=st.booleans(),
    right=st.integers(0, 5),
)
def test_coupled_output_is_the_same_whatever_was_drafted(
    model: int, seed: int, prompt: tuple[int, ...], draft: list[int], greedy: bool, right: int
) -> None:
    expected = decode_plainly(prompt, len(draft) + 1, seed, model, 5, greedy)
    draft[:right] = expected[: min(right, len(draft))]
    scores = np.stack([row_after(prompt + tuple(draft[:i]), model, 5) for i in range(len(draft) + 1)])
    verdict = accept_coupled(draft, scores, seed, len(prompt), greedy=greedy)
    output = (*draft[: verdict.accepted], verdict.next_token)
    assert output == expected[: len(output)]
    assert verdict.accepted >= min(right, len(draft))


@given(model=st.integers(0, 2**31), seed=SEEDS, wrong_at=st.integers(0, 3), greedy=st.booleans())
def test_coupled_stops_at_the_first_wrong_token(model: int, seed: int, wrong_at: int, greedy: bool) -> None:
    draft = list(decode_plainly((1,), 4, seed, model, 5, greedy))
    target = draft[wrong_at]
    draft[wrong_at] = (target + 1) % 5
    scores = np.stack([row_after((1, *draft[:i]), model, 5) for i in range(5)])
    assert accept_coupled(draft, scores, seed, 1, greedy=greedy) == Verdict(wrong_at, target)


def test_coupled_without_a_draft_samples_one_token() -> None:
    scores = row_after((3,), 1, 9)
    assert accept_coupled((), scores[None], 5, 1, greedy=False) == Verdict(0, sample(scores, 5, 1, greedy=False))


@given(model=st.integers(0, 2**31), seed=SEEDS, position=st.integers(0, 10**6))
def test_a_sample_is_the_argmax_of_scores_and_noise_of_the_whole_row(model: int, seed: int, position: int) -> None:
    scores = row_after((0,), model, 12)
    noisy = [score + noise for score, noise in zip(scores, gumbel(seed, position, np.arange(12)), strict=True)]
    assert sample(scores, seed, position, greedy=False) == max(range(12), key=lambda token: noisy[token])


@given(seed=SEEDS, position=st.integers(0, 10**6))
def test_dropping_tokens_that_lost_never_changes_the_sample(seed: int, position: int) -> None:
    scores = np.linspace(-1.0, 1.0, 9)
    winner = sample(scores, seed, position, greedy=False)
    dropped = np.where((np.arange(9) % 2 == 0) & (np.arange(9) != winner), -np.inf, scores)
    assert sample(dropped, seed, position, greedy=False) == winner


@pytest.mark.parametrize(
    ("scores", "token"),
    [((1.0, 3.0, 3.0), 1), ((2.0, 2.0, 2.0), 0), ((-np.inf, -5.0, -5.0), 1), ((0.0, -1.0, 0.5), 2)],
)
def test_greedy_ties_go_to_the_lowest_id(scores: tuple[float, ...], token: int) -> None:
    assert sample(np.array(scores), 0, 0, greedy=True) == token


# --- chain and block -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@given(problem=problems(), u=st.sampled_from([0.0, 2.0**-54, 0.5, ALMOST_ONE]))
def test_a_draft_from_the_target_itself_is_accepted_whole(
    rule: object, problem: tuple[np.random.Generator, int, int], u: float
) -> None:
    rng, k, vocab = problem
    p = random_rows(rng, k + 1, vocab, zeros=True)
    x = [int(rng.choice(vocab, p=row)) for row in p[:k]]
    verdict = rule(x, p[:k].copy(), p, np.full(k, u), 0.5)  # type: ignore[operator]
    assert verdict == Verdict(k, draw(p[k], 0.5))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drafted", [1e-3, 0.0])
@given(problem=problems(), u=st.sampled_from([0.0, 2.0**-54, 0.5]), v=st.floats(0.0, ALMOST_ONE))
def test_a_token_that_the_target_never_says_is_rejected_with_all_after_it(
    rule: object, drafted: float, problem: tuple[np.random.Generator, int, int], u: float, v: float
) -> None:
    rng, k, vocab = problem
    p, q = random_rows(rng, k + 1, vocab), random_rows(rng, k, vocab)
    x = rng.integers(vocab, size=k).tolist()
    at = int(rng.integers(k))
    p[at, x[at]], q[at, x[at]] = 0.0, drafted
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    verdict = rule(x, q, p, np.full(k, u), v)  # type: ignore[operator]
    assert verdict.accepted <= at
    assert p[verdict.accepted, verdict.next_token] > 0.0


@pytest.mark.parametrize("rule", RULES)
@given(problem=problems(), v=st.sampled_from([0.0, 2.0**-54, 0.5, ALMOST_ONE]))
def test_the_output_is_always_possible_under_the_target(
    rule: object, problem: tuple[np.random.Generator, int, int], v: float
) -> None:
    rng, k, vocab = problem
    p, q = random_rows(rng, k + 1, vocab, zeros=True), random_rows(rng, k, vocab, zeros=True)
    x = [int(rng.choice(vocab, p=row)) for row in q]
    verdict = rule(x, q, p, rng.random(k), v)  # type: ignore[operator]
    output = [*x[: verdict.accepted], verdict.next_token]
    assert all(p[i, token] > 0.0 for i, token in enumerate(output))


@given(problem=problems())
def test_chain_keeps_the_longest_prefix_whose_ratios_beat_the_uniforms(
    problem: tuple[np.random.Generator, int, int],
) -> None:
    rng, k, vocab = problem
    p, q, u = random_rows(rng, k + 1, vocab), random_rows(rng, k, vocab), rng.random(k)
    x = [int(rng.choice(vocab, p=row)) for row in q]
    passed = [u[i] < p[i, x[i]] / q[i, x[i]] for i in range(k)]
    accepted = [*passed, False].index(False)
    assert accept_chain(x, q, p, u, 0.3).accepted == accepted


@pytest.mark.parametrize("rule", RULES)
def test_the_first_rejected_token_is_replaced_from_where_the_target_says_more(rule: object) -> None:
    q, p = np.array([[0.8, 0.1, 0.1]]), np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    assert rule([0], q, p, np.array([0.25]), 0.0) == Verdict(0, 1)  # type: ignore[operator]
    assert rule([0], q, p, np.array([0.25]), 0.6) == Verdict(0, 1)  # type: ignore[operator]
    assert rule([0], q, p, np.array([0.25]), 0.7) == Verdict(0, 2)  # type: ignore[operator]
    assert rule([0], q, p, np.array([0.2499]), 0.7) == Verdict(1, 0)  # type: ignore[operator]


def test_block_lets_a_later_success_override_an_earlier_failure() -> None:
    # The worked example of the block verification paper: target (1/3, 2/3), draft (2/3, 1/3), two tokens.
    p, q = np.tile([1 / 3, 2 / 3], (3, 1)), np.tile([2 / 3, 1 / 3], (2, 1))
    u = np.array([0.9, 0.9])
    assert accept_chain([0, 1], q, p, u, 0.5).accepted == 0
    assert accept_block([0, 1], q, p, u, 0.5).accepted == 2


def expected_accepted(rule: object, p: dict[tuple[int, ...], Probs], q: dict[tuple[int, ...], Probs], k: int) -> float:
    """Mean accepted tokens over all drafts and the midpoints of 24 cells per uniform: exact for chances in 24ths."""
    vocab, grid = len(p[()]), (np.arange(24) + 0.5) / 24
    total = 0.0
    for x in itertools.product(range(vocab), repeat=k):
        rows_p = np.stack([p[x[:i]] for i in range(k + 1)])
        rows_q = np.stack([q[x[:i]] for i in range(k)])
        weight = np.prod([rows_q[i, x[i]] for i in range(k)])
        for u in itertools.product(grid, repeat=k):
            total += weight * rule(x, rows_q, rows_p, np.array(u), 0.5).accepted / 24**k  # type: ignore[operator]
    return total


def test_block_accepts_the_papers_means_where_chain_accepts_less() -> None:
    p = {context: np.array([1 / 3, 2 / 3]) for context in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]}
    q = {context: np.array([2 / 3, 1 / 3]) for context in p}
    assert expected_accepted(accept_chain, p, q, 2) == pytest.approx(10 / 9)
    assert expected_accepted(accept_block, p, q, 2) == pytest.approx(11 / 9)


# --- residual and draw -----------------------------------------------------------------------------------------------


def test_a_residual_is_the_targets_excess() -> None:
    assert residual(np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])).tolist() == [0.25, 0.0, 0.0]


def test_an_empty_residual_falls_back_to_the_target() -> None:
    p = np.array([0.5, 0.5, 0.0])
    assert residual(p, p).tolist() == p.tolist()
    assert residual(0.5 * p, p, p).tolist() == p.tolist()
    assert residual(p, np.array([0.0, 1.0, 0.0]), np.ones(3)).tolist() == [0.5, 0.0, 0.0]


@given(
    weights=st.lists(
        st.one_of(st.just(0.0), st.floats(0.0, 1.0), st.sampled_from([5e-324, 1e-320, 2.0**-1022, 2.0**-53])),
        min_size=1,
        max_size=8,
    ).filter(any),
    u=st.one_of(st.floats(0.0, ALMOST_ONE), st.sampled_from([0.0, 2.0**-54, 0.5, ALMOST_ONE])),
)
def test_a_draw_never_returns_a_token_without_weight(weights: list[float], u: float) -> None:
    assert weights[draw(np.array(weights), u)] > 0.0


@pytest.mark.parametrize("u", [0.0, 0.6, ALMOST_ONE])
@pytest.mark.parametrize("weight", [5e-324, 1e-320, 1e-300, 0.1, 1.0, 1.5])
def test_a_draw_of_the_only_possible_token_returns_it(u: float, weight: float) -> None:
    assert draw(np.array([0.0, weight, 0.0]), u) == 1


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    cell=st.integers(0, 1000),
    scale=st.sampled_from([1.0, 0.125, 8.0]),
)
def test_a_draw_inverts_the_cumulative_weights(counts: list[int], cell: int, scale: float) -> None:
    cell %= sum(counts)
    owners = [token for token, count in enumerate(counts) for _ in range(count)]
    assert draw(np.array(counts) * scale, (cell + 0.5) / sum(counts)) == owners[cell]


def test_a_draw_at_a_boundary_takes_the_next_token() -> None:
    weights = np.array([0.25, 0.0, 0.75])
    assert [draw(weights, u) for u in (0.0, np.nextafter(0.25, 0.0), 0.25, ALMOST_ONE)] == [0, 0, 2, 2]
