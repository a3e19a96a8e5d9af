"""Second choices: how often they are right is learned where the first was wrong, and a row is given where it pays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.types import Alternative
from paceline.speculation.alternatives import AlternativeLearner, Share, choose_alternatives
from paceline.speculation.draft_length import StepCost
from paceline.speculation.draft_tree import Other, Path

PATH = Path((4, 5, 6), (0.6, 0.5, 0.9), (Other(0, 7, 0.2), Other(0, 8, 0.1), Other(1, 9, 0.4)))
FREE, DEAR = StepCost(row_cost=0.0), StepCost(row_cost=1.0)


def share(length: int = 3, room: int = 9, path: Path = PATH) -> Share:
    return Share(path, [0.6, 0.5, 0.9], [0.5, 0.25, 0.8][: len(path.others)], length, room)


def test_at_first_a_second_choice_is_as_good_as_its_drafter_says() -> None:
    assert AlternativeLearner().chances(PATH) == pytest.approx([0.2 / 0.4, 0.1 / 0.4, 0.4 / 0.5])


def test_nothing_is_held_for_certain_or_impossible() -> None:
    path = Path((4, 5), (0.98, None), (Other(0, 7, 0.9), Other(1, 8, 0.9)))
    assert AlternativeLearner().chances(path) == pytest.approx([0.9, 0.2])
    assert AlternativeLearner().chances(Path((4,), (0.0,), (Other(0, 7, 0.0),))) == pytest.approx([0.02])


@pytest.mark.parametrize(("token", "is_better"), [(7, True), (1, False)])
def test_what_became_of_them_is_learned_by_rank(token: int, is_better: bool) -> None:
    learner = AlternativeLearner()
    before = learner.chances(PATH)
    for _ in range(20):
        learner.observe(PATH, 0, token)
    after = learner.chances(PATH)
    assert (after[0] > before[0]) is is_better
    assert (after[2] > before[2]) is is_better
    assert after[1] < before[1]


def test_a_wrong_draft_without_second_choices_teaches_nothing() -> None:
    learner = AlternativeLearner()
    learner.observe(PATH, 2, 1)
    assert learner.chances(PATH) == AlternativeLearner().chances(PATH)


def test_where_rows_cost_nothing_all_are_checked_and_where_they_cost_a_step_none() -> None:
    everything = (Alternative(1, 9), Alternative(0, 7), Alternative(0, 8))
    assert choose_alternatives([share()], 4, 9, FREE) == [everything]
    assert choose_alternatives([share()], 4, 9, DEAR) == [()]


def test_the_one_that_brings_most_comes_first_in_any_session() -> None:
    surer = Path((4,), (0.3,), (Other(0, 9, 0.7),))
    other = Share(surer, [0.3], [1.0], 1, 9)
    assert choose_alternatives([share(), other], 6, 1, FREE) == [(), (Alternative(0, 9),)]
    assert choose_alternatives([share(), other], 6, 2, FREE) == [(Alternative(1, 9),), (Alternative(0, 9),)]


def test_none_stands_beside_a_draft_that_is_not_checked_and_none_exceeds_the_room() -> None:
    assert choose_alternatives([share(length=1)], 4, 9, FREE) == [(Alternative(0, 7), Alternative(0, 8))]
    assert choose_alternatives([share(length=0)], 4, 9, FREE) == [()]
    assert choose_alternatives([share(room=1)], 4, 9, FREE) == [(Alternative(1, 9),)]
    assert choose_alternatives([share(room=0)], 4, 9, FREE) == [()]
    assert choose_alternatives([share()], 4, 0, FREE) == [()]


@given(st.integers(0, 3), st.integers(0, 5), st.floats(0.0, 0.5))
@settings(max_examples=100, deadline=None)
def test_as_many_are_taken_as_make_most_tokens_per_second(length: int, budget: int, row_cost: float) -> None:
    cost, one = StepCost(row_cost=row_cost), share(length)
    (chosen,) = choose_alternatives([one], 1 + length, budget, cost)
    worth = [value for value, _ in one.worth()][:budget]
    rates = [
        (one.expected() + sum(worth[:count])) / cost.seconds(1 + length + count) for count in range(len(worth) + 1)
    ]
    assert rates[len(chosen)] == pytest.approx(max(rates))


def test_a_step_is_expected_to_commit_what_it_reaches_and_one_token_more() -> None:
    assert [share(length).expected() for length in range(4)] == pytest.approx([1.0, 1.6, 1.9, 2.17])
    assert sorted(value for value, _ in share().worth()) == pytest.approx([0.4 * 0.25, 0.4 * 0.5, 0.6 * 0.5 * 0.8])
