"""What a draft takes on the wire: a byte per confidence, near enough to what it was, and the same byte ever after."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import Branch, Draft, Graft
from paceline.wire.drafts import CHANCES, TOP, draft_from_pb, draft_to_pb, level_of

LEAST, MOST = CHANCES[1], CHANCES[TOP]


@given(st.floats(LEAST, MOST))
def test_a_confidence_travels_within_a_thirtysecond_of_its_log_odds(chance: float) -> None:
    received = CHANCES[level_of(chance)]
    assert abs(math.log(received / (1 - received)) - math.log(chance / (1 - chance))) <= 1 / 32 + 1e-9


@pytest.mark.parametrize("level", range(1, TOP + 1))
def test_what_was_received_is_sent_on_as_the_same_byte(level: int) -> None:
    assert level_of(CHANCES[level]) == level


@pytest.mark.parametrize(
    ("chance", "level"), [(0.0, 1), (-1.0, 1), (math.nan, 1), (1e-9, 1), (0.5, 128), (1.0, TOP), (2.0, TOP)]
)
def test_what_is_no_chance_or_all_but_certain_has_a_byte_too(chance: float, level: int) -> None:
    assert level_of(chance) == level


def size(draft: Draft) -> int:
    return draft_to_pb(draft).ByteSize()


def test_tokens_take_their_own_bytes_and_one_each_for_the_confidence() -> None:
    ids = tuple(range(300, 316))
    assert size(Draft("7", 300, ids, (0.8,) * 16)) == size(Draft("7", 300, ())) + 2 + 16 * 2 + 2 + 16


def test_a_second_choice_takes_two_bytes_beside_these_and_a_graft_three() -> None:
    def branches(count: int) -> Draft:
        return Draft("7", 300, (300,), (0.8,), tuple(Branch(0, 300, (301,), (0.1,)) for _ in range(count)))

    def grafts(count: int) -> Draft:
        return Draft("7", 300, (), grafts=tuple(Graft(77, (301, 302), (0.8, 0.8)) for _ in range(count)))

    assert size(branches(9)) - size(branches(5)) == 4 * (2 + 1 + 1)
    assert size(grafts(9)) - size(grafts(5)) == 4 * (2 * (2 + 1) + 3)


def test_parts_without_confidences_stay_without_beside_those_with() -> None:
    draft = Draft("s", 3, (4, 5), (), (Branch(0, 3, (6,), (CHANCES[9],)), Branch(1, 4, (7,))), (Graft(0, (8,)),))
    assert draft_from_pb(draft_to_pb(draft)) == draft
