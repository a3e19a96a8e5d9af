"""Stop strings end the text where they begin, however the text was cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.text.stops import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher, shown = StopStrings(stops), ""
    for piece in pieces:
        emit, hit = matcher.push(piece)
        shown += emit
        if hit:
            return shown, True
    return shown + matcher.flush(), False


def reference(stops: list[str], text: str) -> tuple[str, bool]:
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=8),
)
def test_the_first_completed_stop_ends_the_text_wherever_it_is_cut(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == reference(stops, "".join(pieces))


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text("ab", max_size=4), max_size=8),
)
def test_nothing_of_a_stop_string_is_ever_shown(stops: list[str], pieces: list[str]) -> None:
    matcher, shown, final = StopStrings(stops), "", reference(stops, "".join(pieces))[0]
    for piece in pieces:
        emit, hit = matcher.push(piece)
        shown += emit
        assert final.startswith(shown)
        if hit:
            break


@pytest.mark.parametrize("text", ["", "a\n", "naïve"])
def test_without_stop_strings_all_text_passes_at_once(text: str) -> None:
    assert StopStrings(()).push(text) == (text, False)


def test_a_possible_beginning_is_held_back_and_released_when_it_turns_out_harmless() -> None:
    matcher = StopStrings(["\n\nUser:"])
    assert matcher.push("yes\n") == ("yes", False)
    assert matcher.push("\nUse") == ("", False)
    assert matcher.push("ful") == ("\n\nUseful", False)
