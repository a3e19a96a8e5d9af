"""Windows of hidden states: consecutive rows, the latest ones, each taken once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import FeatureFrame, KvFrame, KvShape, KvWish, StepItem, StepOutcome, Tap, VerifierInfo
from paceline.speculation.features import (
    MAX_FRAME_BYTES,
    FeatureWindow,
    KvCursor,
    KvWindow,
    check_kv,
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


FULL, SLIDING = KvShape("full_attention", 1, 2), KvShape("sliding_attention", 2, 2, history=3)


def kv_window(history: int, *frames: FeatureFrame) -> KvWindow:
    out = KvWindow(history)
    for one in frames:
        out.add(one)
    return out


def test_rows_below_a_position_are_taken_and_the_others_later() -> None:
    one = kv_window(0, frame(0, 4), frame(4, 9))
    assert one.take(6) == frame(0, 6)
    assert one.take(6) is None
    one.add(frame(9, 10))
    assert one.take(9) == frame(6, 9)
    assert one.take() == frame(9, 10)


def test_within_a_process_no_row_of_a_context_gives_way_but_those_that_nobody_looks_at() -> None:
    wide = MAX_FRAME_BYTES // 2
    assert kv_window(0, frame(0, 2, wide), frame(2, 5, wide)).take() == frame(0, 5, wide)
    assert kv_window(3, frame(0, 2), frame(2, 5)).take() == frame(2, 5)


def test_a_new_copy_replaces_rows_that_lacked_those_before_them() -> None:
    one = kv_window(0, frame(7, 9))
    assert one.take() == frame(7, 9)
    one.add(frame(0, 5))
    one.add(frame(5, 9))
    assert one.take() == frame(0, 9)
    one.add(frame(0, 5))
    assert one.take() is None
    one.rewind()
    assert one.take() == frame(0, 9)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.integers(0, 30)), max_size=12))
def test_whatever_comes_rows_of_keys_and_values_are_whole_and_below_the_position(
    arrivals: list[tuple[int, int, int]],
) -> None:
    one = KvWindow(0)
    for start, num_rows, below in arrivals:
        one.add(frame(start, start + num_rows))
        got = one.take(below)
        if got is not None:
            assert got == frame(got.start, got.end)
            assert got.end <= below


def step(kv: tuple[KvWish, ...], start: int, num_rows: int, num_draft: int = 0) -> StepItem:
    return StepItem("s", start, (5,) * num_rows, num_draft=num_draft, kv=kv)


def brought(*ends: int) -> StepOutcome:
    return StepOutcome("s", (5, 6, 7), accepted=2, kv=tuple(KvFrame("s", "x", frame(0, end)) for end in ends))


def test_all_rows_that_are_of_use_are_wished_first_and_then_what_is_new() -> None:
    cursor = KvCursor()
    assert cursor.wishes(9) == ()
    cursor.listen((FULL, SLIDING))
    first = cursor.wishes(9)
    assert first == (KvWish("full_attention", 0), KvWish("sliding_attention", 5))
    assert cursor.took(step(first, 4, 4), StepOutcome("s", ())) == ()
    second = cursor.wishes(9)
    assert second == (KvWish("full_attention", 8), KvWish("sliding_attention", 8))
    outcome = brought(11)
    assert cursor.took(step(second, 8, 4, num_draft=3), outcome) == outcome.kv
    assert cursor.wishes(12) == (KvWish("full_attention", 11), KvWish("sliding_attention", 11))


def test_what_a_step_brings_that_began_before_somebody_new_listened_is_dropped() -> None:
    cursor = KvCursor()
    cursor.listen((FULL,))
    wishes = cursor.wishes(9)
    cursor.listen((FULL,))
    assert cursor.took(step(wishes, 0, 9), brought(9)) == ()
    assert cursor.wishes(12) == (KvWish("full_attention", 0),)
    cursor.listen(())
    assert cursor.wishes(12) == ()
    assert cursor.took(step((), 0, 9), brought()) == ()


GIVES = replace(INFO, kv=(KvShape("full_attention", 1, 2), KvShape("sliding_attention", 2, 2)))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (KvShape("linear", 1, 2), "taps: verifier target gives no keys and values of linear."),
        (
            KvShape("full_attention", 2, 2),
            "taps: full_attention has 1 heads of 2 numbers in verifier target, not 2 of 2.",
        ),
        (
            KvShape("full_attention", 1, 4),
            "taps: full_attention has 1 heads of 2 numbers in verifier target, not 1 of 4.",
        ),
    ],
)
def test_keys_and_values_that_are_not_there_are_refused_by_name(wanted: KvShape, reason: str) -> None:
    check_taps(Tap("s", (-1,), kv=(FULL, SLIDING)), GIVES)
    with pytest.raises(InvalidRequest) as caught:
        check_taps(Tap("s", (-1,), kv=(SLIDING, wanted)), GIVES)
    assert str(caught.value) == reason
    with pytest.raises(InvalidRequest, match="gives no keys and values"):
        check_taps(Tap("s", kv=(wanted,)), INFO)


def test_rows_larger_than_a_message_can_not_be_given() -> None:
    huge = KvShape("full_attention", 2**16, 2**8)
    with pytest.raises(InvalidRequest, match=r"taps: keys and values of one position .* have more than 2097152 bytes"):
        check_taps(Tap("s", kv=(huge,)), replace(INFO, kv=(huge,)))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (FeatureFrame(0, 0, b""), "kv: a frame has at least one row"),
        (FeatureFrame(0, 2, bytes(18)), "kv: 18 bytes are not 2 rows"),
        (
            FeatureFrame(0, 2, bytes(20)),
            "kv: rows of 10 bytes, but keys and values of 1 heads of 2 numbers have 8; use the target that",
        ),
        (FeatureFrame(8, 3, bytes(24)), "kv: rows reach up to position 10, but the session ends before 10; open it"),
    ],
)
def test_keys_and_values_of_another_shape_or_beyond_the_session_are_refused(rows: FeatureFrame, reason: str) -> None:
    check_kv(KvFrame("s", "full_attention", FeatureFrame(8, 2, bytes(16))), FULL, 10)
    with pytest.raises(InvalidRequest, match=reason):
        check_kv(KvFrame("s", "full_attention", rows), FULL, 10)
