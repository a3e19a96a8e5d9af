"""The ragged rows of a step, and who lives in which slot."""

from __future__ import annotations

import pytest

from paceline.core.errors import Internal, ResourceExhausted
from paceline.models.rows import Segment, lay_out
from paceline.models.slots import SlotTable


def test_rows_follow_each_other_and_the_last_of_each_session_are_kept() -> None:
    rows = lay_out([Segment(1, 4, (7, 8, 9), 2), Segment(0, 0, (5,), 1), Segment(2, 9, (3, 3), 0)], spare=5, min_rows=1)
    assert rows.token_ids.tolist() == [7, 8, 9, 5, 3, 3]
    assert rows.places.slots.tolist() == [1, 1, 1, 0, 2, 2]
    assert rows.places.positions.tolist() == [4, 5, 6, 0, 9, 10]
    assert rows.keep.tolist() == [1, 2, 3]


def test_missing_rows_are_padded_in_the_spare_slot() -> None:
    rows = lay_out([Segment(1, 4, (7,), 1)], spare=5, min_rows=4)
    assert rows.places.slots.tolist() == [1, 5, 5, 5]
    assert rows.places.positions.tolist() == [4, 0, 1, 2]
    assert len(rows) == 4


def test_the_output_layer_gets_the_minimum_of_rows_too_wanted_ones_first() -> None:
    rows = lay_out([Segment(1, 0, (7, 8, 9), 1)], spare=5, min_rows=2)
    assert rows.keep.tolist() == [2, 0]


def test_nothing_is_kept_of_a_prefill_chunk() -> None:
    assert lay_out([Segment(1, 0, (7, 8, 9), 0)], spare=5, min_rows=2).keep.tolist() == []


def test_a_slot_belongs_to_one_session_until_it_is_closed() -> None:
    slots = SlotTable(2, 10)
    slots.open("a")
    slots.open("b")
    assert {slots.slot("a"), slots.slot("b")} == {0, 1}
    with pytest.raises(ResourceExhausted, match="All 2 KV slots are taken"):
        slots.open("c")
    slots.close("a")
    slots.open("c")
    assert "a" not in slots
    assert slots.slot("c") != slots.slot("b")


def test_closing_a_session_twice_frees_its_slot_once() -> None:
    slots = SlotTable(1, 10)
    slots.open("a")
    slots.close("a")
    slots.close("a")
    slots.open("b")
    with pytest.raises(ResourceExhausted):
        slots.open("c")


def test_opening_a_session_twice_is_a_defect_of_ours() -> None:
    slots = SlotTable(2, 10)
    slots.open("a")
    with pytest.raises(Internal):
        slots.open("a")


def test_lengths_grow_shrink_and_start_anew() -> None:
    slots = SlotTable(1, 10)
    slots.open("a")
    slots.extend("a", 0, 6)
    slots.extend("a", 2, 1)
    assert slots.length("a") == 3
    slots.close("a")
    slots.open("a")
    assert slots.length("a") == 0


@pytest.mark.parametrize(("start", "count"), [(7, 1), (6, 5), (0, 11)])
def test_rows_beyond_the_cache_or_the_slot_are_a_defect_of_ours(start: int, count: int) -> None:
    slots = SlotTable(1, 10)
    slots.open("a")
    slots.extend("a", 0, 6)
    with pytest.raises(Internal):
        slots.extend("a", start, count)
    assert slots.length("a") == 6
