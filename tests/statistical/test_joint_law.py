"""The law of whole sequences, speculation on: what comes out of draft, accept and go on is the target's joint law.

Toy models whose every sequence is enumerated. N as needed (``laws.draws_needed``) to reject any deviation of total
variation .01, however it is spread over the sequences, with power .99 at alpha = 10^-6: 330 thousand sequences for 81
cells, 507 thousand for 256. Seeds are fixed. The wrong rules below are the negative controls: each is a mistake that
an engine shipped or might ship, and each must be rejected by the same test at the same size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from support import many, toys
from support.laws import ALPHA, chi_square, draws_needed, shifted
from support.many import Floats, Ints
from support.toys import Round, Rule, Toy, logarithms, uniforms


@dataclass(frozen=True)
class Case:
    toy: Toy
    k: int

    @property
    def num_draws(self) -> int:
        return draws_needed(int((self.toy.joint > 0.0).sum()))

    def p_value(self, rule: Rule) -> float:
        return chi_square(self.counts(rule), self.toy.joint)

    def counts(self, rule: Rule) -> Ints:
        return toys.decode(self.toy, rule, self.k, many.seeds(self.num_draws))


CASES = {
    "81 sequences": Case(toys.make(3, 4, seed=1), k=2),
    "243 sequences, some impossible": Case(toys.make(3, 5, seed=1, zeros=0.2), k=3),
    "125 sequences, some impossible": Case(toys.make(5, 3, seed=1, zeros=0.2), k=2),
    "256 sequences, a poor drafter": Case(toys.make(4, 4, seed=1, distance=2.0), k=4),
}
SMALL, LONG = CASES["81 sequences"], Case(toys.make(4, 4, seed=1), k=3)


@pytest.mark.parametrize("rule", [toys.coupled, toys.rejection, toys.block])
@pytest.mark.parametrize("name", CASES)
def test_sequences_have_the_targets_law_and_no_other_at_a_distance_of_a_hundredth(name: str, rule: Rule) -> None:
    case = CASES[name]
    counts = case.counts(rule)
    assert chi_square(counts, case.toy.joint) > ALPHA
    assert chi_square(counts, shifted(case.toy.joint)) < ALPHA


def test_coupled_sequences_are_the_same_with_and_without_drafts() -> None:
    case = CASES["243 sequences, some impossible"]
    keys = many.seeds(50_000)
    plain = toys.decode(case.toy, toys.coupled, 0, keys)
    assert np.array_equal(toys.decode(case.toy, toys.coupled, 3, keys), plain)
    other = replace(case.toy, q=toys.make(3, 5, seed=2).q)
    assert np.array_equal(toys.decode(other, toys.coupled, 2, keys), plain)


# --- what must be rejected -------------------------------------------------------------------------------------------


def drafted(one: Round) -> tuple[Ints, Floats, Floats]:
    return one.draft(lambda q, i: many.draw(q, one.noise(2 * i)))


def residual_from_the_target(one: Round) -> tuple[Ints, Ints, Ints]:
    """A rejected token is redrawn from p instead of norm(max(p - q, 0))."""
    x, p, q = drafted(one)
    accepted, _ = many.accept_chain(x, q, p, uniforms(one), one.noise(2 * one.k))
    return x, accepted, many.draw(p[np.arange(len(x)), accepted], one.noise(2 * one.k))


def noise_of_the_position_before(one: Round) -> tuple[Ints, Ints, Ints]:
    """Two positions share their noise."""
    x, p, _ = one.draft(lambda q, i: many.sample(logarithms(q), one.seeds, (one.position + i) // 2))
    target = [many.sample(logarithms(p[:, i]), one.seeds, (one.position + i) // 2) for i in range(one.k + 1)]
    kept = np.array([x[:, i] == target[i] for i in range(one.k)], np.bool_).reshape(one.k, len(x)).T
    accepted = np.cumprod(kept, axis=1).sum(axis=1)
    return x, accepted, np.stack(target, axis=1)[np.arange(len(x)), accepted]


def shared_noise_with_a_ratio_test(one: Round) -> tuple[Ints, Ints, Ints]:
    """The draft is the argmax of its noise, accepted by ratio, and redrawn with the same noise."""
    x, p, q = one.draft(lambda q, i: many.sample(logarithms(q), one.seeds, one.position + i))
    accepted, _ = many.accept_chain(x, q, p, uniforms(one), one.noise(2 * one.k))
    token = np.empty(len(x), np.int64)
    for i in range(one.k + 1):
        here = accepted == i
        rest = p[here, i] if i == one.k else many.residual(p[here, i], q[here, i], p[here, i])
        token[here] = many.sample(logarithms(rest), one.seeds[here], one.position + i)
    return x, accepted, token


def bonus_from_stale_scores(one: Round) -> tuple[Ints, Ints, Ints]:
    """After a whole draft the last token comes from the row before."""
    x, p, q = drafted(one)
    stale = p.copy()
    stale[:, -1] = p[:, max(0, one.k - 1)]
    return x, *many.accept_chain(x, q, stale, uniforms(one), one.noise(2 * one.k))


def seed_cut_to_32_bits(one: Round) -> tuple[Ints, Ints, Ints]:
    """Sessions that differ in the high word of their seed only are the same session."""
    return toys.coupled(replace(one, seeds=one.seeds & np.uint64(0xFFFFFFFF)))


def target_off_by_a_hundredth(one: Round) -> tuple[Ints, Ints, Ints]:
    """The first token's law is wrong by TV .01."""
    rows = tuple(np.stack([shifted(row) for row in rows]) if t == 0 else rows for t, rows in enumerate(one.toy.p))
    return toys.rejection(replace(one, toy=replace(one.toy, p=rows)))


def typical_acceptance(one: Round) -> tuple[Ints, Ints, Ints]:
    """A draft is kept when the target finds it plausible (Medusa: epsilon .09, delta its root)."""
    x, p, _ = drafted(one)
    entropy = -np.where(p > 0.0, p * np.log(np.where(p > 0.0, p, 1.0)), 0.0).sum(axis=2)
    bound = np.minimum(0.09, 0.3 * np.exp(-entropy))
    kept = [p[np.arange(len(x)), i, x[:, i]] > bound[:, i] for i in range(one.k)]
    accepted = np.cumprod(np.array(kept, np.bool_).reshape(one.k, len(x)).T, axis=1).sum(axis=1)
    return x, accepted, many.draw(p[np.arange(len(x)), accepted], one.noise(2 * one.k))


def one_uniform_for_everything(one: Round) -> tuple[Ints, Ints, Ints]:
    """Drafting and accepting share their noise."""
    x, p, q = drafted(one)
    u = np.array([one.noise(2 * i) for i in range(one.k)]).reshape(one.k, len(x)).T
    return x, *many.accept_chain(x, q, p, u, one.noise(2 * one.k))


def residual_with_the_acceptance_noise(one: Round) -> tuple[Ints, Ints, Ints]:
    """The uniform that rejected a token also draws its replacement."""
    x, p, q = drafted(one)
    u = uniforms(one)
    accepted, _ = many.accept_chain(x, q, p, u, one.noise(2 * one.k))
    v = np.concatenate((u, one.noise(2 * one.k)[:, None]), axis=1)[np.arange(len(x)), accepted]
    return x, *many.accept_chain(x, q, p, u, v)


def block_with_the_chains_residual(one: Round) -> tuple[Ints, Ints, Ints]:
    """Block acceptance, but what is rejected is redrawn as token by token."""
    x, p, q = drafted(one)
    accepted, token = many.accept_block(x, q, p, uniforms(one), one.noise(2 * one.k))
    if one.k:
        here, last = np.arange(len(x)), np.minimum(accepted, one.k - 1)
        rest = many.residual(p[here, accepted], q[here, last], p[here, accepted])
        token = np.where(accepted == one.k, token, many.draw(rest, one.noise(2 * one.k)))
    return x, accepted, token


def block_with_noise_per_token(one: Round) -> tuple[Ints, Ints, Ints]:
    """Noise keyed by token position: block has looked at the noise of positions that it rejects and drafts again."""

    def noise(i: int, lane: int) -> Floats:
        return many.uniform(one.seeds, one.position + i, lane)

    x, p, q = one.draft(lambda q, i: many.draw(q, noise(i, 0)))
    u = np.array([noise(i, 1) for i in range(one.k)]).reshape(one.k, len(x)).T
    return x, *many.accept_block(x, q, p, u, one.noise(1_000))


WRONG_CHAINS = [
    residual_from_the_target,
    noise_of_the_position_before,
    shared_noise_with_a_ratio_test,
    bonus_from_stale_scores,
    seed_cut_to_32_bits,
    target_off_by_a_hundredth,
    typical_acceptance,
    one_uniform_for_everything,
    residual_with_the_acceptance_noise,
]


@pytest.mark.parametrize("rule", WRONG_CHAINS)
def test_what_changes_the_law_is_rejected(rule: Rule) -> None:
    assert SMALL.p_value(rule) < ALPHA


@pytest.mark.parametrize("rule", [block_with_the_chains_residual, block_with_noise_per_token])
def test_what_changes_the_law_of_block_is_rejected(rule: Rule) -> None:
    assert LONG.p_value(toys.block) > ALPHA
    assert LONG.p_value(rule) < ALPHA
