"""Prompt lookup: what followed last time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import DraftJob, Guess, SamplingParams, SessionSpec, StopRules
from paceline.drafters.ngram import CONFIDENCES, SIZES, NgramDrafter, NgramIndex


def guess(context: tuple[int, ...], max_tokens: int = 8, *, path: tuple[int, ...] = ()) -> Guess:
    """Of a new session with this context and a path guessed before."""
    drafter = NgramDrafter(1)
    drafter.open(SessionSpec("s", context, 1, SamplingParams(), StopRules(100)))
    return drafter.extend([DraftJob("s", context + path, len(context), max_tokens)])[0]


def test_what_followed_the_same_tokens_is_copied() -> None:
    assert guess((1, 2, 3, 4, 5, 6, 7, 9, 3, 4), 3).token_ids == (5, 6, 7)
    assert guess((1, 2, 3, 4, 5, 6, 7, 9, 3, 4), 2).token_ids == (5, 6)


def test_the_copy_ends_with_the_text() -> None:
    assert guess((1, 2, 3, 1, 2), 8).token_ids == (3, 1, 2)


def test_the_last_time_counts() -> None:
    assert guess((1, 2, 7, 1, 2, 8, 1, 2), 1).token_ids == (8,)


def test_a_longer_match_wins_over_a_later_one() -> None:
    context = (1, 2, 3, 4, 50, 9, 3, 4, 60, 1, 2, 3, 4)
    assert guess(context, 1) == Guess("s", (50,), (CONFIDENCES[4],))


@pytest.mark.parametrize("size", SIZES)
def test_longer_matches_are_trusted_more(size: int) -> None:
    repeated = tuple(range(10, 10 + size))
    found = guess((*repeated, 99, 5, *repeated), 2)
    assert found.token_ids == (99, 5)
    assert found.confidences == (CONFIDENCES[size],) * 2


def test_a_single_token_or_none_in_common_says_nothing() -> None:
    assert guess((1, 2, 3, 9, 2), 4) == Guess("s", (), ())
    assert guess((1,), 4) == Guess("s", (), ())


def test_a_guessed_path_is_continued_but_never_learned() -> None:
    context = (1, 2, 3, 4, 5, 6)
    drafter = NgramDrafter(1)
    drafter.open(SessionSpec("s", context, 1, SamplingParams(), StopRules(100)))
    assert drafter.extend([DraftJob("s", (*context, 2, 3), 6, 2)])[0].token_ids == (4, 5)
    assert drafter.extend([DraftJob("s", (*context, 2, 3, 99, 2, 3), 6, 2)])[0].token_ids == (4, 5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(0, 20), max_size=6))
def test_an_index_that_grew_in_pieces_is_the_one_that_grew_at_once(tokens: list[int], cuts: list[int]) -> None:
    grown, whole = NgramIndex(), NgramIndex()
    for cut in sorted(cuts):
        grown.grow(tokens[:cut])
    grown.grow(tokens)
    whole.grow(tokens)
    assert grown.follow(tokens, 5) == whole.follow(tokens, 5)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=40))
def test_the_copy_is_what_followed_the_last_longest_match(tokens: list[int]) -> None:
    index = NgramIndex()
    index.grow(tokens)
    expected: tuple[int, ...] = ()
    for size in SIZES:
        ends = [end for end in range(size, len(tokens)) if tokens[end - size : end] == tokens[-size:]]
        if ends and len(tokens) >= size:
            expected = tuple(tokens[ends[-1] : ends[-1] + 5])
            break
    assert index.follow(tokens, 5)[0] == expected
