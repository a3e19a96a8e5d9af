"""Suffix matching: similar places vote, in the session, a corpus and what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import Branch, DraftJob, Guess, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters import suffix
from paceline.drafters.suffix import (
    DOUBT,
    LONGEST,
    MIN_BRANCH,
    MIN_REACH,
    NUM_PLACES,
    NUM_WEAK_PLACES,
    TOKEN_BYTES,
    SuffixDrafter,
    SuffixIndex,
)


def spec(session: str, context: Tokens, prompt_length: int = 1) -> SessionSpec:
    return SessionSpec(session, context, prompt_length, SamplingParams(), StopRules(100))


def guess(drafter: SuffixDrafter, context: Tokens, max_tokens: int = 8) -> Guess:
    """Of a new session with this context."""
    drafter.open(spec("s", context, len(context)))
    found = drafter.extend([DraftJob("s", context, len(context), max_tokens)])[0]
    drafter.close("s")
    return found


def finish(drafter: SuffixDrafter, prompt: Tokens, output: Tokens) -> None:
    """A session that had this output."""
    drafter.open(spec("finished", prompt, len(prompt)))
    drafter.extend([DraftJob("finished", prompt + output, len(prompt + output), 1)])
    drafter.close("finished")


def test_what_followed_the_same_tokens_is_copied() -> None:
    assert guess(SuffixDrafter(1), (1, 2, 3, 4, 5, 6, 9, 2, 3), 3).token_ids == (4, 5, 6)


def test_nothing_in_common_says_nothing() -> None:
    assert guess(SuffixDrafter(1), (1, 2, 3, 9)) == Guess("s", (), ())
    assert guess(SuffixDrafter(1), (1,)) == Guess("s", (), ())


def test_one_token_in_common_is_a_last_resort_and_trusted_little() -> None:
    alone = guess(SuffixDrafter(1), (1, 2, 3, 9, 2), 1)
    assert alone == Guess("s", (3,), (pytest.approx(1 / 2 * (1 - DOUBT)),))
    assert guess(SuffixDrafter(1), (1, 2, 3, 8, 2, 4, 7, 8, 2), 1).token_ids == (4,)


def test_of_places_with_one_token_in_common_the_latest_vote() -> None:
    index = SuffixIndex()
    index.grow([1, 2, 1, 3] * 40)
    assert index.weak_places((9, 1)) == [(place, 1) for place in range(161 - 2 * NUM_WEAK_PLACES, 161, 2)]
    assert index.weak_places(()) == []


def test_the_majority_wins() -> None:
    context = (8, 1, 2, 70, 8, 1, 2, 71, 8, 1, 2, 71, 8, 1, 2)
    assert guess(SuffixDrafter(1), context, 1).token_ids == (71,)


def test_one_long_agreement_outweighs_two_short_ones() -> None:
    context = (3, 4, 5, 6, 1, 2, 70, 80, 1, 2, 71, 90, 1, 2, 71, 3, 4, 5, 6, 1, 2)
    assert guess(SuffixDrafter(1), context, 1).token_ids == (70,)


def test_equal_votes_go_to_the_lowest_id() -> None:
    assert guess(SuffixDrafter(1), (8, 1, 2, 71, 8, 1, 2, 70, 8, 1, 2), 1).token_ids == (70,)


def test_places_that_were_outvoted_do_not_vote_again() -> None:
    context = (10, 1, 2, 70, 6, 11, 1, 2, 71, 6, 12, 1, 2, 71, 5, 13, 1, 2)
    assert guess(SuffixDrafter(1), context, 2).token_ids == (71, 5)


def test_confidence_is_the_share_of_the_votes_with_one_against() -> None:
    context = (5, 1, 2, 70, 6, 1, 2, 71, 7, 1, 2, 71, 8, 1, 2)
    votes, all_votes, trust_in_two_tokens = 2 * 2.0**2, 3 * 2.0**2, 1 - DOUBT / 2**0.5
    expected = votes / (all_votes + 1.0) * trust_in_two_tokens
    found = guess(SuffixDrafter(1), context, 1)
    assert (found.token_ids, found.confidences) == ((71,), (pytest.approx(expected),))


def test_what_was_outvoted_is_a_second_choice_with_its_share_of_the_votes() -> None:
    context = (5, 1, 2, 70, 6, 1, 2, 71, 7, 1, 2, 71, 8, 1, 2)
    votes, all_votes, trust_in_two_tokens = 2.0**2, 3 * 2.0**2, 1 - DOUBT / 2**0.5
    expected = votes / (all_votes + 1.0) * trust_in_two_tokens
    assert guess(SuffixDrafter(1), context, 1).branches == (Branch(0, len(context), (70,), (pytest.approx(expected),)),)


def test_second_choices_stand_at_the_places_where_votes_part() -> None:
    context = (10, 1, 2, 70, 71, 6, 11, 1, 2, 70, 71, 7, 12, 1, 2, 70, 72, 8, 13, 1, 2)
    found = guess(SuffixDrafter(1), context, 3)
    assert found.token_ids == (70, 71, 6)
    end = len(context)
    assert [(one.position, one.token_ids) for one in found.branches] == [(end + 1, (72,)), (end + 2, (7,))]


def test_there_are_as_many_second_choices_as_a_session_wants_the_surest_first() -> None:
    context = (70, 1, 2, 72, 1, 2, 72, 1, 2, 71, 1, 2, 71, 1, 2, 71, 1, 2, 73, 1, 2)
    for fan_out, expected in ((0, []), (1, [(72,)]), (2, [(72,), (73,)])):
        drafter = SuffixDrafter(1)
        drafter.open(replace(spec("s", context), fan_out=fan_out))
        found = drafter.extend([DraftJob("s", context, len(context), 1)])[0]
        assert found.token_ids == (71,)
        assert [one.token_ids for one in found.branches] == expected


def test_second_choices_that_are_hardly_ever_needed_are_left_out() -> None:
    context = (*(3, 4, 5, 6, 7, 8, 1, 2, 70) * 3, 1, 2, 71, 3, 4, 5, 6, 7, 8, 1, 2)
    votes, against = 3 * 8.0**2, 2.0**2
    assert against / (votes + against + 1.0) < MIN_BRANCH
    found = guess(SuffixDrafter(1), context, 1)
    assert (found.token_ids, found.branches) == ((70,), ())


def test_the_more_a_place_agrees_the_more_it_is_trusted() -> None:
    trust = []
    for length in (2, 3, 4, 5, 8):
        repeated = tuple(range(10, 10 + length))
        trust.append(guess(SuffixDrafter(1), (*repeated, 99, 5, *repeated), 1).confidences[0])
    assert trust == sorted(trust)
    assert trust[0] < 0.65 < 0.85 < trust[-1]


def test_a_guess_ends_where_it_is_unlikely_to_be_right_altogether() -> None:
    repeated = tuple(range(100, 200))
    found = guess(SuffixDrafter(1), (1, 2, *repeated, 1, 2), 100)
    reach = 1.0
    for confidence in found.confidences:
        assert 0.0 < confidence <= 1.0
        reach *= confidence
    assert reach >= MIN_REACH
    assert 1 < len(found.token_ids) < 100
    assert found.token_ids == repeated[: len(found.token_ids)]


def test_agreement_is_measured_up_to_a_limit() -> None:
    index = SuffixIndex()
    index.grow([*range(100), *range(100)])
    assert index.places(range(100)) == [(100, LONGEST)]
    assert index.places([5, *range(95, 100)]) == [(100, 5)]


def test_only_the_latest_places_vote() -> None:
    index = SuffixIndex()
    index.grow([1, 2] * 200)
    places = [place for place, _ in index.places((1, 2))]
    assert places == list(range(400 - 2 * NUM_PLACES, 400, 2))


def test_a_corpus_is_shared_by_all_sessions() -> None:
    drafter = SuffixDrafter(2, [(1, 2, 3, 4, 5)])
    for context in ((9, 1, 2), (7, 7, 2, 3), (7, 7, 3)):
        assert guess(drafter, context, 1).token_ids == (context[-1] + 1,)


def test_a_draft_never_goes_from_one_document_into_the_next() -> None:
    drafter = SuffixDrafter(1, [(1, 2, 3), (1, 4, 5), (3, 6, 7)])
    assert guess(drafter, (1, 2), 8).token_ids == (3,)
    assert guess(drafter, (8, 5), 8).token_ids == ()
    assert guess(drafter, (8, 7), 8).token_ids == ()


def test_agreement_ends_where_a_document_begins() -> None:
    index = SuffixIndex()
    index.add([1, 2])
    index.add([3, 4, 5])
    assert index.places((1, 2, 3, 4)) == [(5, 2)]


def test_outputs_are_learned_only_when_asked_for() -> None:
    for learns, expected in ((False, ()), (True, (4, 5))):
        drafter = SuffixDrafter(1, learns=learns)
        finish(drafter, (1,), (2, 3, 4, 5))
        assert guess(drafter, (9, 2, 3), 4).token_ids == expected


def test_prompts_are_never_learned() -> None:
    drafter = SuffixDrafter(1, learns=True)
    finish(drafter, (1, 2, 3, 4), (5, 6, 7))
    for token in (1, 2, 3, 4):
        assert guess(drafter, (9, token)).token_ids == ()
    assert guess(drafter, (9, 5)).token_ids == (6, 7)


def test_one_sessions_output_does_not_run_into_anothers() -> None:
    drafter = SuffixDrafter(1, learns=True)
    finish(drafter, (1,), (2, 3))
    finish(drafter, (1,), (4, 5))
    assert guess(drafter, (8, 2)).token_ids == (3,)
    assert guess(drafter, (8, 3)).token_ids == ()


def test_what_was_learned_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffix, "MAX_LEARNED", 20)
    drafter = SuffixDrafter(1, [tuple(range(500, 600))], learns=True)
    for start in range(0, 90, 10):
        finish(drafter, (1,), tuple(range(start, start + 5)))
    known = [start for start in range(0, 90, 10) if guess(drafter, (start, start + 1), 1).token_ids]
    assert known == [60, 70, 80]
    assert guess(drafter, (500, 501), 1).token_ids == (502,)


def test_a_path_that_was_guessed_is_continued_but_not_indexed() -> None:
    context = (1, 2, 3, 4, 5, 6)
    drafter = SuffixDrafter(1)
    drafter.open(spec("s", context))
    assert drafter.extend([DraftJob("s", (*context, 2, 3), 6, 2)])[0].token_ids == (4, 5)
    assert drafter.extend([DraftJob("s", (*context, 7, 7, 8, 7, 7), 6, 2)])[0].token_ids == ()
    assert drafter.extend([DraftJob("s", (*context, 7, 7, 8, 7, 2), 6, 1)])[0].token_ids == (3,)


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_an_index_that_grew_in_pieces_is_the_one_that_grew_at_once(tokens: list[int], cuts: list[int]) -> None:
    grown, whole = SuffixIndex(), SuffixIndex()
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    for low, high in pairwise(edges):
        grown.grow(tokens[low:high])
    whole.grow(tokens)
    assert grown.tokens == whole.tokens
    assert grown.places(tokens) == whole.places(tokens)


def naive_places(text: Sequence[int], context: Sequence[int]) -> list[tuple[int, int]]:
    found = []
    for place in range(2, len(text)):
        length = 0
        while length < min(place, len(context)) and text[place - 1 - length] == context[-1 - length]:
            length += 1
        if length >= 2:
            found.append((place, length))
    return found


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), min_size=2, max_size=10))
def test_places_are_all_those_that_agree_in_two_tokens(text: list[int], context: list[int]) -> None:
    index = SuffixIndex()
    index.grow(text)
    assert index.places(context) == naive_places(text, context)


def test_memory_is_counted_by_the_token_and_a_corpus_counts_as_weights() -> None:
    drafter = SuffixDrafter(2, [(1, 2, 3, 4)])
    assert (drafter.info.weights_bytes, drafter.state_bytes()) == (5 * TOKEN_BYTES, 0)
    assert SuffixDrafter(2).info.weights_bytes == 0
