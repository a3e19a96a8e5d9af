"""How far drafts get: rates by place, of a session that leans on all others."""

from __future__ import annotations

import random

import pytest

from paceline.speculation.ladder import FIRST, NUM_RUNGS, Ladder


def test_nothing_known_is_the_same_hope_at_every_place() -> None:
    assert Ladder().rates() == [FIRST] * NUM_RUNGS
    assert Ladder().heights([0, 1, 2]) == [0.0, FIRST, FIRST + FIRST**2]


def test_rates_are_those_of_places_that_were_reached() -> None:
    ladder, draw = Ladder(), random.Random(1)
    for _ in range(2000):
        reached = 0
        while reached < 4 and draw.random() < (0.8, 0.5, 0.9, 0.2)[reached]:
            reached += 1
        ladder.climb(reached, 5)
    assert ladder.rates()[:4] == pytest.approx([0.8, 0.5, 0.9, 0.2], abs=0.12)


def test_what_lies_beyond_the_limit_is_not_held_against_anybody() -> None:
    ladder = Ladder()
    for _ in range(100):
        ladder.climb(2, 2)
    assert min(ladder.rates()) > 0.9
    assert ladder.rates()[2] == ladder.rates()[1]  # never tried: like the place before it


def test_one_place_that_failed_says_nothing_of_those_behind_it() -> None:
    ladder = Ladder()
    for _ in range(100):
        ladder.climb(1, 9)
    assert ladder.rates()[0] > 0.9
    assert ladder.rates()[1] < 0.15
    assert ladder.rates()[2] == ladder.rates()[1]


def test_a_session_begins_like_all_others_and_soon_goes_its_own_way() -> None:
    shared = Ladder()
    for _ in range(200):
        Ladder(shared).climb(3, 8)
    own = Ladder(shared)
    assert own.heights([8]) == pytest.approx(shared.heights([8]))
    for _ in range(20):
        own.climb(0, 8)
    assert own.rates()[0] < 0.3 < shared.rates()[0]


def test_mean_places_taken_never_fall_with_the_limit_and_go_on_beyond_the_last_rung() -> None:
    ladder = Ladder()
    ladder.climb(NUM_RUNGS, NUM_RUNGS)
    heights = ladder.heights(range(4 * NUM_RUNGS))
    assert heights == sorted(heights)
    assert heights[-1] > heights[NUM_RUNGS]
