"""The vectorised twins that the statistics run on say what the specification says, token by token."""

from __future__ import annotations

import numpy as np
import pytest
from support import laws, many, toys

from paceline.sampling import accept, noise

SEEDS = many.seeds(400)
EXTREMES = np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1], np.uint64)
TOKENS = np.array([0, 1, 2, 5, 9, 10, 300, 2**20 + 1])
POSITION = 7


def test_noise_of_many_seeds_is_the_noise_of_each() -> None:
    keys = np.concatenate((SEEDS, EXTREMES))
    rows, lane = many.gumbel(keys, POSITION, TOKENS), many.uniform(keys, POSITION, 3)
    for row, one, key in zip(rows, lane, keys.tolist(), strict=True):
        assert row.tolist() == noise.gumbel(key, POSITION, TOKENS).tolist()
        assert one == noise.uniform(key, POSITION, 3)


def test_noise_that_is_computed_in_chunks_is_the_same() -> None:
    keys = many.seeds(2 * many.CHUNK + 1)
    assert np.array_equal(many.uniform(keys, 0, 0)[-3:], many.uniform(keys[-3:], 0, 0))
    assert len(np.unique(keys)) == len(keys)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_every_rule_gives_the_verdicts_of_the_specification(k: int, zeros: float) -> None:
    toy = toys.make(4, 4, seed=5, zeros=zeros)
    one = toys.Round(toy, 0, k, np.zeros(len(SEEDS), np.int64), SEEDS)
    for rule in (toys.coupled, toys.rejection, toys.block):
        x, accepted, token = rule(one)
        for index in range(len(SEEDS)):
            expected = by_specification(rule, one, x[index].tolist(), index)
            assert (int(accepted[index]), int(token[index])) == (expected.accepted, expected.next_token)


def by_specification(rule: toys.Rule, one: toys.Round, x: list[int], index: int) -> accept.Verdict:
    seed, t = int(one.seeds[index]), one.position
    codes = [sum(token * 4 ** (i - 1 - at) for at, token in enumerate(x[:i])) for i in range(one.k + 1)]
    p = np.stack([one.toy.p[i][code] for i, code in enumerate(codes)])
    if rule is toys.coupled:
        q = [toys.logarithms(one.toy.q[i][code]) for i, code in enumerate(codes[: one.k])]
        assert x == [accept.sample(row, seed, t + i, greedy=False) for i, row in enumerate(q)]
        return accept.accept_coupled(x, toys.logarithms(p), seed, t, greedy=False)
    rows = np.array([one.toy.q[i][code] for i, code in enumerate(codes[: one.k])]).reshape(one.k, 4)
    assert x == [accept.draw(row, noise.uniform(seed, t, 2 * i)) for i, row in enumerate(rows)]
    u = np.array([noise.uniform(seed, t, 2 * i + 1) for i in range(one.k)])
    scalar = accept.accept_chain if rule is toys.rejection else accept.accept_block
    return scalar(x, rows, p, u, noise.uniform(seed, t, 2 * one.k))


# --- the statistics themselves ---------------------------------------------------------------------------------------


def test_the_sizes_are_those_of_the_tables() -> None:
    # Derived independently in the project's reliability notes: V = 10, 64, 256, 1024 at TV .01 and alpha 10^-6.
    thousands = [round(laws.draws_needed(cells) / 1000) for cells in (10, 64, 256, 1024)]
    assert thousands == [180, 304, 507, 909]


def test_a_fair_draw_passes_and_a_shifted_law_of_the_stated_size_is_rejected() -> None:
    law = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    counts = np.random.default_rng(1).multinomial(laws.draws_needed(5), law)
    assert laws.chi_square(counts, law) > laws.ALPHA
    moved = laws.shifted(law)
    assert 0.5 * np.abs(moved - law).sum() == pytest.approx(laws.TV)
    assert moved.sum() == pytest.approx(1.0)
    assert laws.chi_square(counts, moved) < laws.ALPHA


def test_one_impossible_outcome_is_enough() -> None:
    assert laws.chi_square(np.array([500, 500, 1]), np.array([0.5, 0.5, 0.0])) == 0.0


def test_rare_outcomes_are_pooled_and_still_count() -> None:
    law = np.array([0.5, 0.4999, *[0.0001 / 20] * 20])
    fair = np.array([50_000, 49_990, *[1] * 10, *[0] * 10])
    assert laws.chi_square(fair, law) > 0.5
    assert laws.chi_square(fair + np.array([0, -100, *[5] * 20]), law) < laws.ALPHA


def test_the_false_alarm_rate_is_as_stated() -> None:
    law = np.array([0.4, 0.3, 0.2, 0.1])
    rng = np.random.default_rng(3)
    values = np.array([laws.chi_square(rng.multinomial(10_000, law), law) for _ in range(2_000)])
    assert [round(float((values < level).mean()), 2) for level in (0.1, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.03
    )
