"""Exact, without sampling: every draft is enumerated, and u and v are integrated over.

A verdict is piecewise constant in u and v. The rule itself is asked where it changes (bisection down to neighbouring
floats), so that the whole integral is a finite sum. The token after the accepted ones is followed by the target's own
tokens until k + 1 are there: that joint law must be the target's to 10^-12.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pytest
from support import toys
from support.many import Floats
from support.toys import Toy

from paceline.sampling.accept import Verdict, accept_block, accept_chain, draw, residual

Rule = Callable[[tuple[int, ...], Floats, Floats, Floats, float], Verdict]
ALMOST_ONE = 1.0 - 2.0**-53
FAILS = 1.0
EXACT = 1e-12


def itself(toy: Toy) -> Toy:
    return replace(toy, q=toy.p)


TOYS = {
    "3 tokens, 2 drafts": toys.make(3, 3, seed=1),
    "3 tokens, 3 drafts, a poor drafter": toys.make(3, 4, seed=2, distance=3.0),
    "2 tokens, 4 drafts": toys.make(2, 5, seed=3),
    "4 tokens, 2 drafts, some impossible": toys.make(4, 3, seed=4, zeros=0.35),
    "5 tokens, 1 draft, some impossible": toys.make(5, 2, seed=5, zeros=0.5),
    "3 tokens, 3 drafts, drafter and target the same": itself(toys.make(3, 4, seed=6)),
}


@dataclass(frozen=True)
class Outcome:
    """A verdict with its chance, given the draft."""

    chance: float
    accepted: int
    token: int


def switch(holds: Callable[[float], bool]) -> float:
    """Where a condition on [0, 1) that holds up to some point ends to hold."""
    if not holds(0.0):
        return 0.0
    if holds(ALMOST_ONE):
        return 1.0
    low, high = 0.0, 1.0
    while low < (middle := 0.5 * (low + high)) < high and high - low > 2.0**-60:
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def outcomes(rule: Rule, x: tuple[int, ...], q: Floats, p: Floats) -> Iterator[Outcome]:
    """Every cell of (u, v) in which the verdict is one and the same."""
    k = len(x)
    bounds = [
        switch(lambda a, i=i: rule(x, q, p, np.array([0.0] * i + [a] + [ALMOST_ONE] * (k - i - 1)), 0.5).accepted > i)
        for i in range(k)
    ]
    for passes in itertools.product((True, False), repeat=k):
        sizes = [bound if passed else 1.0 - bound for bound, passed in zip(bounds, passes, strict=True)]
        if all(sizes):
            starts = np.array([0.0 if passed else bound for bound, passed in zip(bounds, passes, strict=True)])
            near, far = starts + 0.01 * np.array(sizes), starts + 0.99 * np.array(sizes)
            accepted = rule(x, q, p, near, 0.5).accepted
            assert rule(x, q, p, far, 0.5).accepted == accepted
            for token, width in widths(partial(rule, x, q, p, near), p.shape[1]):
                yield Outcome(float(np.prod(sizes)) * width, accepted, token)


def widths(verdict: Callable[[float], Verdict], vocab: int) -> Iterator[tuple[int, float]]:
    """How much of v gives each token; tokens come in order."""
    ends = [0.0, *(switch(lambda v, token=token: verdict(v).next_token <= token) for token in range(vocab - 1)), 1.0]
    yield from ((token, ends[token + 1] - ends[token]) for token in range(vocab))


def rows(table: tuple[Floats, ...], x: tuple[int, ...], vocab: int) -> Floats:
    """The law after every prefix of ``x``."""
    contexts = [sum(token * vocab ** (i - 1 - at) for at, token in enumerate(x[:i])) for i in range(len(table))]
    return np.array([table[i][context] for i, context in enumerate(contexts)]).reshape(len(table), vocab)


@cache
def of_toy(rule: Rule, name: str) -> tuple[Floats, float]:
    return integrate(rule, TOYS[name])


def integrate(rule: Rule, toy: Toy) -> tuple[Floats, float]:
    """Chance of every sequence of k + 1 tokens, and the mean number of accepted ones."""
    law, mean, k = np.zeros(toy.num_sequences), 0.0, toy.length - 1
    for x in itertools.product(range(toy.vocab), repeat=k):
        p, q = rows(toy.p, x, toy.vocab), rows(toy.q[:k], x, toy.vocab)
        drafted = float(np.prod([q[i, token] for i, token in enumerate(x)]))
        for outcome in outcomes(rule, x, q, p) if drafted else ():
            tokens = (*x[: outcome.accepted], outcome.token)
            law += drafted * outcome.chance * continued(toy, tokens)
            mean += drafted * outcome.chance * outcome.accepted
    return law, mean


def continued(toy: Toy, tokens: tuple[int, ...]) -> Floats:
    """Sequences that begin with ``tokens`` and go on as the target says."""
    context = sum(token * toy.vocab ** (len(tokens) - 1 - at) for at, token in enumerate(tokens))
    chances, width = np.ones(1), 1
    for t in range(len(tokens), toy.length):
        here = toy.p[t][context * width : (context + 1) * width]
        chances, width = (chances[:, None] * here).reshape(-1), width * toy.vocab
    out = np.zeros(toy.num_sequences)
    out[context * width : (context + 1) * width] = chances
    return out


@pytest.mark.parametrize("rule", [accept_chain, accept_block])
@pytest.mark.parametrize("name", TOYS)
def test_the_output_has_exactly_the_targets_law(name: str, rule: Rule) -> None:
    law, _ = of_toy(rule, name)
    assert np.abs(law - TOYS[name].joint).max() < EXACT


@pytest.mark.parametrize("rule", [accept_chain, accept_block])
@pytest.mark.parametrize("name", TOYS)
def test_a_single_draft_is_kept_with_the_best_possible_chance(name: str, rule: Rule) -> None:
    toy = TOYS[name]
    _, mean = integrate(rule, Toy(toy.vocab, 2, toy.p[:2], toy.q[:2]))
    assert mean == pytest.approx(np.minimum(toy.p[0], toy.q[0]).sum(), abs=EXACT)


@pytest.mark.parametrize("name", TOYS)
def test_block_keeps_at_least_as_many_as_the_chain(name: str) -> None:
    assert of_toy(accept_block, name)[1] >= of_toy(accept_chain, name)[1] - EXACT


def test_block_keeps_more_where_a_drafter_is_poor() -> None:
    name = "3 tokens, 3 drafts, a poor drafter"
    assert of_toy(accept_block, name)[1] > 1.02 * of_toy(accept_chain, name)[1]


@pytest.mark.parametrize("rule", [accept_chain, accept_block])
def test_a_drafter_that_says_what_the_target_says_is_always_right(rule: Rule) -> None:
    assert of_toy(rule, "3 tokens, 3 drafts, drafter and target the same")[1] == pytest.approx(3.0, abs=EXACT)


# --- what must be found out ------------------------------------------------------------------------------------------


def redrawn_from_the_target(x: tuple[int, ...], q: Floats, p: Floats, u: Floats, v: float) -> Verdict:
    accepted = accept_chain(x, q, p, u, v).accepted
    return Verdict(accepted, draw(p[accepted], v))


def bonus_from_stale_scores(x: tuple[int, ...], q: Floats, p: Floats, u: Floats, v: float) -> Verdict:
    return accept_chain(x, q, np.concatenate((p[:-1], p[-2:-1])), u, v)


def block_that_stops_at_the_first_failure(x: tuple[int, ...], q: Floats, p: Floats, u: Floats, v: float) -> Verdict:
    """What reviewers suggest: a loop that breaks, as the chain's does."""
    tests = np.where(np.eye(len(x), dtype=bool), u, FAILS)  # one position is tested, all others fail
    passed = [accept_block(x, q, p, test, v).accepted == i for i, test in enumerate(tests, start=1)]
    accepted = [*passed, False].index(False)
    return accept_block(x, q, p, np.where(np.arange(len(x)) == accepted - 1, 0.0, FAILS), v)


def block_with_the_chains_residual(x: tuple[int, ...], q: Floats, p: Floats, u: Floats, v: float) -> Verdict:
    verdict = accept_block(x, q, p, u, v)
    if verdict.accepted == len(x):
        return verdict
    return Verdict(verdict.accepted, draw(residual(p[verdict.accepted], q[verdict.accepted]), v))


def accepted_a_little_too_often(x: tuple[int, ...], q: Floats, p: Floats, u: Floats, v: float) -> Verdict:
    """A guard against division by zero."""
    return accept_chain(x, q, p, u * (1.0 - 1e-9), v)


@pytest.mark.parametrize(
    "wrong",
    [
        redrawn_from_the_target,
        bonus_from_stale_scores,
        block_that_stops_at_the_first_failure,
        block_with_the_chains_residual,
        accepted_a_little_too_often,
    ],
)
def test_a_rule_that_is_wrong_by_ever_so_little_is_found_out(wrong: Rule) -> None:
    toy = TOYS["3 tokens, 2 drafts"]
    law, _ = integrate(wrong, toy)
    assert law.sum() == pytest.approx(1.0)
    assert np.abs(law - toy.joint).max() > 10 * EXACT
