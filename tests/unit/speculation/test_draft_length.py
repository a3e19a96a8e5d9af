"""Draft lengths maximise expected tokens per second, and learn what that takes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.speculation.draft_length import NUM_FIRST, AcceptanceLearner, StepCost, choose_lengths
from paceline.speculation.draft_tree import Path


def cost(times: dict[int, float]) -> StepCost:
    learner = StepCost()
    for rows, seconds in times.items():
        learner.observe(rows, seconds)
    return learner


def goodput(chances: list[list[float]], lengths: list[int], base: int, step: StepCost) -> float:
    expected = 0.0
    for ps, length in zip(chances, lengths, strict=True):
        reach, total = 1.0, 1.0
        for p in ps[:length]:
            reach *= p
            total += reach
        expected += total
    return expected / step.seconds(base + sum(lengths))


@given(st.lists(st.lists(st.floats(0.01, 0.99), max_size=3), min_size=1, max_size=3), st.floats(0.0, 0.5))
@settings(max_examples=200, deadline=None)
def test_no_other_choice_of_lengths_has_a_better_goodput(chances: list[list[float]], slope: float) -> None:
    step = cost({rows: 1.0 + slope * rows for rows in range(1, 17)})
    base = len(chances)
    chosen = choose_lengths(chances, base, 99, step)
    best = max(
        goodput(chances, list(lengths), base, step)
        for lengths in itertools.product(*(range(len(ps) + 1) for ps in chances))
    )
    assert goodput(chances, chosen, base, step) == pytest.approx(best, rel=1e-9)


def test_the_budget_is_kept() -> None:
    assert sum(choose_lengths([[0.9] * 8] * 4, 4, 5, cost({1: 1.0}))) == 5


def test_where_every_row_costs_a_whole_step_nothing_is_drafted() -> None:
    step = cost({rows: float(rows) for rows in range(1, 17)})
    assert choose_lengths([[0.9, 0.8]], 1, 99, step) == [0]


def test_step_times_are_learned_interpolated_and_never_fall_with_rows() -> None:
    step = cost({1: 0.010, 8: 0.014, 4: 0.009})
    assert step.seconds(1) == pytest.approx(0.010)
    assert step.seconds(6) == pytest.approx((0.010 + 0.014) / 2, rel=0.05)
    times = [step.seconds(rows) for rows in range(1, 300)]
    assert times == sorted(times)


def test_a_clock_that_stands_still_costs_nothing_and_breaks_nothing() -> None:
    step = cost({1: 0.0, 4: 0.0})
    assert choose_lengths([[0.9, 0.8]], 1, 99, step) == [2]
    for _ in range(200):
        step.observe(4, 0.010)
    assert step.seconds(4) == pytest.approx(0.010, rel=0.01)


def test_drafts_that_neither_gain_nor_lose_are_checked() -> None:
    step = cost({1: 1.0, 2: 1.5, 3: 2.0})
    assert choose_lengths([[0.5]], 1, 99, step) == [1]
    assert choose_lengths([[0.499]], 1, 99, step) == [0]
    assert choose_lengths([[0.501]], 1, 99, step) == [1]


def test_drafts_that_pay_only_together_are_checked_together() -> None:
    step = cost({1: 1.0, 2: 2.0, 3: 2.0})
    assert choose_lengths([[0.9]], 1, 99, step) == [0]
    assert choose_lengths([[0.9, 0.9]], 1, 99, step) == [2]


def test_the_likeliest_drafts_of_all_sessions_come_first() -> None:
    step = cost({rows: 1.0 for rows in range(1, 17)})
    assert choose_lengths([[0.9, 0.5], [0.7, 0.9]], 2, 3, step) == [1, 2]


def test_one_slow_step_hardly_changes_what_was_learned() -> None:
    step = cost({4: 0.010})
    step.observe(4, 5.0)
    assert step.seconds(4) < 0.012


def test_faster_steps_are_believed_sooner_than_slower_ones() -> None:
    faster, slower = StepCost(), StepCost()
    for _ in range(NUM_FIRST):
        faster.observe(4, 0.010)
        slower.observe(4, 0.010)
    faster.observe(4, 0.005)
    slower.observe(4, 0.015)
    assert faster.seconds(4) == pytest.approx(0.009)
    assert slower.seconds(4) == pytest.approx(0.0105)


def test_a_first_step_that_compiles_is_forgotten_with_the_second() -> None:
    step = cost({4: 1.0})
    step.observe(4, 0.010)
    step.observe(4, 0.011)
    assert step.seconds(4) == pytest.approx(0.010)


def served(draw: random.Random, times: Callable[[int, int], float]) -> StepCost:
    """After 60 sessions of 20 steps that begin at 50 or 900 positions, with noise of a twentieth."""
    step = StepCost()
    for session in range(60):
        begin = (50, 900)[session % 2]
        for index in range(20):
            rows, depth = draw.choice((1, 2, 3, 4, 6, 9)), begin + 2 * index
            step.observe(rows, times(rows, depth) * draw.uniform(0.95, 1.05), depth)
    return step


def test_a_row_of_a_long_context_is_known_to_cost_more_though_steps_of_all_contexts_share_what_was_seen() -> None:
    step = served(random.Random(1), lambda rows, depth: 0.020 + 3.5e-4 * rows + 1e-6 * rows * depth)
    short, long = step.at(60.0), step.at(920.0)
    for times, depth in ((short, 60), (long, 920)):
        a_row = (times.seconds(9) - times.seconds(1)) / 8
        assert a_row == pytest.approx(3.5e-4 + 1e-6 * depth, rel=0.25)
    assert choose_lengths([[0.6] * 9], 1, 9, long)[0] < choose_lengths([[0.6] * 9], 1, 9, short)[0]


def test_where_depth_costs_nothing_all_contexts_are_alike() -> None:
    step = served(random.Random(2), lambda rows, depth: 0.020 + 3.5e-4 * rows)
    assert step.at(920.0).seconds(9) == pytest.approx(step.at(60.0).seconds(9), rel=0.03)


def test_time_already_spent_on_drafting_makes_a_step_check_more() -> None:
    step = cost({rows: 0.010 + 0.003 * rows for rows in range(1, 9)})
    at_once, after = step.at(0.0), step.at(0.0, spent_s=0.030)
    assert after.seconds(3) == pytest.approx(0.030 + at_once.seconds(3))
    assert choose_lengths([[0.5] * 8], 1, 8, after)[0] > choose_lengths([[0.5] * 8], 1, 8, at_once)[0]


def test_many_rows_are_learned_by_powers_of_two() -> None:
    for rows in (16, 17, 32, 33, 200):
        assert cost({rows: 0.5}).seconds(rows) == 0.5
    assert cost({31: 0.7, 17: 0.5}).seconds(17) == 0.5
    assert cost({16: 0.3, 17: 0.5}).seconds(16) == 0.3


def test_beyond_what_was_seen_a_step_costs_what_its_rows_would_add() -> None:
    step = cost({4: 0.0108})
    assert step.seconds(9) == pytest.approx(0.0118)
    assert step.seconds(1) == pytest.approx(0.0102)


def test_chances_stay_between_never_and_always_whatever_is_claimed_and_seen() -> None:
    path = Path((1, 2), (0.0, 1.0))
    for accepted in (0, 2):
        learner = AcceptanceLearner()
        assert learner.chances(path) == pytest.approx([0.02, 0.98])
        for _ in range(500):
            learner.observe(path, accepted)
        assert all(0.0 < chance < 1.0 for chance in learner.chances(path))


def test_acceptance_is_learned_per_confidence() -> None:
    learner = AcceptanceLearner()
    sure, unsure = Path((1,), (0.9,)), Path((1,), (0.3,))
    for _ in range(50):
        learner.observe(sure, 1)
        learner.observe(unsure, 0)
    assert learner.chances(sure)[0] > 0.9
    assert learner.chances(unsure)[0] < 0.1


def test_tokens_after_the_first_wrong_one_say_nothing() -> None:
    learner = AcceptanceLearner()
    path = Path((1, 2, 3), (0.9, 0.5, 0.2))
    before = learner.chances(path)
    learner.observe(path, 0)
    after = learner.chances(path)
    assert after[0] < before[0]
    assert after[1:] == before[1:]


def test_a_drafter_that_was_poor_is_tried_again_after_a_while() -> None:
    learner, path = AcceptanceLearner(), Path((1,), (0.8,))
    for _ in range(50):
        learner.observe(path, 0)
    low = learner.chances(path)[0]
    for _ in range(400):
        learner.relax()
    assert low < 0.1 < 0.5 < learner.chances(path)[0]


def test_without_confidences_places_are_told_apart() -> None:
    learner, path = AcceptanceLearner(), Path((1, 2), (None, None))
    for _ in range(40):
        learner.observe(path, 1)
    first, second = learner.chances(path)
    assert first > 0.9
    assert second < 0.1
