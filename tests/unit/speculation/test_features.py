"""Windows of hidden states: consecutive rows, the latest ones, each taken once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import FeatureFrame, Tap, VerifierInfo
from paceline.speculation.features import (
    MAX_FRAME_BYTES,
    FeatureWindow,
    check_taps,
    join,
    last_rows,
)

INFO = VerifierInfo("target", "model", "", "numerics", 64, 1000, 4, num_layers=3, hidden_size=8)


def frame(start: int, end: int, width: int = 4) -> FeatureFrame:
    """Every row says its position."""
    return FeatureFrame(start, end - start, b"".join(at.to_bytes(width, "little") for at in range(start, end)))


def window(history: int, *frames: FeatureFrame) -> FeatureWindow:
    out = FeatureWindow(history)
    for one in frames:
        out.add(one)
    return out


def test_rows_that_follow_are_taken_as_one_frame_and_only_once() -> None:
    one = window(9, frame(3, 5), frame(5, 6))
    assert one.take() == frame(3, 6)
    assert one.take() is None
    one.add(frame(6, 8))
    assert one.take() == frame(6, 8)


def test_only_the_latest_rows_are_kept() -> None:
    assert window(3, frame(0, 2), frame(2, 4), frame(4, 6)).take() == frame(3, 6)
    assert window(1, frame(0, 9)).take() == frame(8, 9)
    assert window(0, frame(0, 9)).take() == frame(8, 9)


def test_what_was_taken_can_be_taken_again_as_far_as_it_is_still_there() -> None:
    one = window(4, frame(0, 3))
    one.take()
    one.add(frame(3, 6))
    one.rewind()
    assert one.take() == frame(2, 6)


def test_rows_that_come_twice_are_not_taken_twice() -> None:
    one = window(9, frame(3, 6))
    assert one.take() == frame(3, 6)
    one.add(frame(2, 6))
    assert one.take() is None
    one.add(frame(4, 8))
    assert one.take() == frame(6, 8)


def test_rows_behind_a_gap_begin_anew() -> None:
    assert window(9, frame(3, 6), frame(7, 9)).take() == frame(7, 9)


def test_rows_of_another_width_begin_anew() -> None:
    assert window(9, frame(3, 6), frame(6, 9, width=6)).take() == frame(6, 9, width=6)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.booleans()), max_size=12))
def test_whatever_comes_rows_are_whole_consecutive_and_no_more_than_wanted(
    history: int, arrivals: list[tuple[int, int, bool]]
) -> None:
    one, taken = FeatureWindow(history), 0
    for start, num_rows, takes in arrivals:
        one.add(frame(start, start + num_rows))
        got = one.take() if takes else None
        if got is not None:
            assert got == frame(got.start, got.end)
            assert got.num_rows <= history
            assert got.start >= taken
            taken = got.end


def test_frames_that_follow_each_other_are_joined_and_else_the_newer_one_counts() -> None:
    assert join(frame(1, 3), frame(3, 6)) == frame(1, 6)
    assert join(frame(1, 3), frame(4, 6)) == frame(4, 6)
    assert join(frame(1, 3), frame(3, 6, width=6)) == frame(3, 6, width=6)
    assert join(None, frame(1, 3)) == join(frame(1, 3), None) == frame(1, 3)
    assert join(None, None) is None


def test_the_oldest_rows_give_way_where_a_message_would_become_too_large() -> None:
    wide = MAX_FRAME_BYTES // 4
    both = join(frame(0, 3, wide), frame(3, 6, wide))
    assert both == frame(2, 6, wide)
    assert window(64, frame(0, 3, wide), frame(3, 6, wide)).take() == frame(2, 6, wide)
    assert last_rows(frame(0, 3, MAX_FRAME_BYTES), 3) == frame(2, 3, MAX_FRAME_BYTES)


@pytest.mark.parametrize(
    ("tap", "reason"),
    [
        (Tap("s", (3,)), "taps: there is no tap 3 in verifier target; use 1 to 2, or -1 for the last."),
        (Tap("s", (0,)), "taps: there is no tap 0 in verifier target; use 1 to 2, or -1 for the last."),
        (Tap("s", (-1,) * 200_000), "taps: 200000 taps make rows of more than 2097152 bytes; use fewer."),
    ],
)
def test_taps_that_are_not_there_are_refused_by_name(tap: Tap, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_taps(tap, INFO)
    assert str(caught.value) == reason


def test_a_verifier_without_hidden_states_says_so_and_ending_a_tap_is_always_fine() -> None:
    without = replace(INFO, hidden_size=0)
    with pytest.raises(InvalidRequest, match="taps: verifier target gives no hidden states"):
        check_taps(Tap("s", (-1,)), without)
    check_taps(Tap("s"), without)
    check_taps(Tap("s", (1, 2, -1), 64), INFO)
