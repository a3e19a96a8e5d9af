"""Guesses of several sources become one path and its branches; commits tell what each was worth."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import Branch, Draft, DraftJob, Guess, Tokens
from paceline.speculation.draft_tree import DraftTree, check_draft
from paceline.speculation.merging import DEFAULT_CONFIDENCE, Merger, Opinion
from paceline.speculation.trust import LEAST, MOST, Claim, SessionTrust, SharedTrust

CONTEXT = (1, 2, 3)


def job(committed: Tokens = CONTEXT, path: Tokens = ()) -> DraftJob:
    return DraftJob("s", committed + path, len(committed), 8)


def opinion(source: int, tokens: Tokens, *confidences: float) -> Opinion:
    return Opinion(source, Guess("s", tokens, confidences or (0.5,) * len(tokens)))


def merge(*opinions: Opinion, at: DraftJob | None = None) -> Guess:
    """By somebody who has seen nothing yet."""
    at = at or job()
    merger = Merger(SessionTrust(SharedTrust()), at.committed)
    merger.advance(at)
    return merger.merge(at, opinions)


class Record(SessionTrust):
    """Remembers what was judged."""

    def __init__(self) -> None:
        super().__init__(SharedTrust())
        self.judged: list[tuple[int, int, bool]] = []

    def learn(self, claim: Claim, is_right: bool) -> None:
        self.judged.append((claim.supporters, claim.depth, is_right))


def test_one_source_is_passed_on() -> None:
    assert merge(opinion(0, (4, 5), 0.9, 0.8)) == Guess("s", (4, 5), (pytest.approx(0.9), pytest.approx(0.8)))


def test_no_guesses_make_an_empty_one() -> None:
    assert merge() == Guess("s", ())
    assert merge(opinion(0, ()), opinion(1, ())) == Guess("s", ())


def test_sources_without_confidences_get_a_default() -> None:
    assert merge(Opinion(0, Guess("s", (4,)))).confidences == (pytest.approx(DEFAULT_CONFIDENCE),)


def test_where_sources_agree_the_longer_guess_wins() -> None:
    found = merge(opinion(0, (4, 5)), opinion(1, (4, 5, 6, 7)))
    assert (found.token_ids, found.branches) == ((4, 5, 6, 7), ())


def test_agreement_of_sources_raises_the_chance() -> None:
    found = merge(opinion(0, (4, 5), 0.6, 0.6), opinion(1, (4,), 0.5))
    assert found.confidences == (pytest.approx(1 - 0.4 * 0.5), pytest.approx(0.6))


def test_more_expected_tokens_beat_a_surer_first_one() -> None:
    """.7 alone against .6 + .6 * .9 + .6 * .9 * .9."""
    assert merge(opinion(0, (4,), 0.7), opinion(1, (5, 6, 7), 0.6, 0.9, 0.9)).token_ids == (5, 6, 7)


def test_a_source_s_own_branches_stay_branches() -> None:
    branch = Branch(0, 4, (8, 9), (0.2, 0.5))
    found = merge(Opinion(0, Guess("s", (4, 5, 6), (0.9, 0.8, 0.7), (branch,))))
    assert found.token_ids == (4, 5, 6)
    assert found.branches == (Branch(0, 4, (8, 9), (pytest.approx(0.2), pytest.approx(0.5))),)


def test_a_second_choice_that_another_source_agrees_with_may_win() -> None:
    first = Opinion(0, Guess("s", (4,), (0.5,), (Branch(0, 3, (8,), (0.4,)),)))
    found = merge(first, opinion(1, (8,), 0.4))
    assert (found.token_ids, found.confidences) == ((8,), (pytest.approx(1 - 0.6 * 0.6),))
    assert [one.token_ids for one in found.branches] == [(4,)]


def test_branches_beyond_the_path_or_of_other_branches_are_left_out() -> None:
    odd = (Branch(0, 9, (8,), (0.4,)), Branch(1, 4, (8,), (0.4,)), Branch(0, 2, (8,), (0.4,)))
    found = merge(Opinion(0, Guess("s", (4,), (0.5,), odd)))
    assert (found.token_ids, found.branches) == ((4,), ())


def test_the_other_path_becomes_a_branch_where_they_part() -> None:
    found = merge(opinion(0, (4, 5, 6), 0.9, 0.8, 0.7), opinion(1, (4, 8, 9), 0.9, 0.3, 0.6))
    assert found.token_ids == (4, 5, 6)
    assert found.branches == (Branch(0, 4, (8, 9), (pytest.approx(0.3), pytest.approx(0.6))),)


def test_a_branch_that_is_hardly_ever_needed_is_left_out() -> None:
    assert merge(opinion(0, (4,), 0.9), opinion(1, (5,), 0.01)).branches == ()


def test_three_sources_part_at_different_places() -> None:
    found = merge(opinion(0, (4, 5, 6), 0.9, 0.9, 0.9), opinion(1, (4, 7)), opinion(2, (8,)))
    assert [(branch.position, branch.token_ids) for branch in found.branches] == [(3, (8,)), (4, (7,))]


def test_a_commit_judges_every_source_up_to_its_first_wrong_token() -> None:
    record = Record()
    merger = Merger(record, 3)
    merger.merge(job(), [opinion(0, (4, 5, 6)), opinion(1, (4, 8, 9))])
    merger.advance(job((*CONTEXT, 4, 8, 7)))
    assert record.judged == [(3, 0, True), (1, 1, False), (2, 1, True), (2, 2, False)]


def test_a_commit_that_comes_in_pieces_judges_the_same() -> None:
    record = Record()
    merger = Merger(record, 3)
    merger.merge(job(), [opinion(0, (4, 5, 6))])
    for end in (1, 2, 3):
        merger.advance(job((*CONTEXT, *(4, 5, 7)[:end])))
    assert record.judged == [(1, 0, True), (1, 1, True), (1, 2, False)]


def test_guesses_behind_a_path_are_judged_when_the_path_was_right() -> None:
    for committed, judged in (((4, 5), [(1, 1, True)]), ((9, 5), [])):
        record = Record()
        merger = Merger(record, 3)
        merger.merge(job(path=(4,)), [opinion(0, (5,))])
        merger.advance(job((*CONTEXT, *committed)))
        assert record.judged == judged


def test_what_was_guessed_before_the_path_is_kept_while_the_path_grows() -> None:
    record = Record()
    merger = Merger(record, 3)
    merger.merge(job(), [opinion(0, (4,))])
    merger.merge(job(path=(4,)), [opinion(1, (5,))])
    merger.advance(job((*CONTEXT, 4, 5)))
    assert record.judged == [(1, 0, True), (2, 1, True)]


def test_a_guess_for_the_same_place_replaces_the_earlier_one() -> None:
    record = Record()
    merger = Merger(record, 3)
    merger.merge(job(), [opinion(0, (4,))])
    assert merger.merge(job(), [opinion(1, (5,))]).token_ids == (5,)
    merger.advance(job((*CONTEXT, 4)))
    assert record.judged == [(2, 0, False)]


def test_a_guess_that_was_right_is_judged_once() -> None:
    record = Record()
    merger = Merger(record, 3)
    merger.merge(job(), [opinion(0, (4,))])
    for _ in range(3):
        merger.advance(job((*CONTEXT, 4)))
    assert record.judged == [(1, 0, True)]


OPINIONS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1.0)), max_size=6), min_size=1, max_size=3
).map(
    lambda paths: [
        Opinion(source, Guess("s", tuple(token for token, _ in path), tuple(chance for _, chance in path)))
        for source, path in enumerate(paths)
    ]
)


def expected_tokens(merged: dict[Tokens, float], path: Tokens) -> float:
    reach, total = 1.0, 0.0
    for end in range(1, len(path) + 1):
        reach *= merged[path[:end]]
        total += reach
    return total


@given(OPINIONS, st.integers(0, 2))
def test_no_path_through_the_guesses_has_more_expected_tokens(opinions: list[Opinion], num_path: int) -> None:
    """Against every path there is; a fresh estimate leaves only the sources' own words, which agreement joins."""
    doubts: dict[Tokens, float] = {}
    for one in opinions:
        for end in range(1, len(one.guess.token_ids) + 1):
            prefix = one.guess.token_ids[:end]
            doubts[prefix] = doubts.get(prefix, 1.0) * (1.0 - one.guess.confidences[end - 1])
    chances = {prefix: min(max(1.0 - doubt, LEAST), MOST) for prefix, doubt in doubts.items()}
    found = merge(*opinions, at=job(path=(0,) * num_path))
    best = max((expected_tokens(chances, path) for path in chances), default=0.0)
    assert expected_tokens(chances, found.token_ids) == pytest.approx(best)


@given(OPINIONS, st.integers(0, 2))
def test_path_and_branches_are_guesses_of_the_sources_and_make_a_sound_draft(
    opinions: list[Opinion], num_path: int
) -> None:
    at = job(path=(0,) * num_path)
    found = merge(*opinions, at=at)
    said = {one.guess.token_ids[:end] for one in opinions for end in range(len(one.guess.token_ids) + 1)}
    assert found.token_ids in said
    for branch in found.branches:
        shared = found.token_ids[: branch.position - len(at.context)]
        assert shared + branch.token_ids in said
        assert len(branch.confidences) == len(branch.token_ids)
    check_draft(Draft("s", len(at.context), found.token_ids, found.confidences, found.branches), 3)


def test_a_rejection_finds_its_continuation_in_the_draft_tree() -> None:
    found = merge(opinion(0, (4, 5, 6), 0.9, 0.8, 0.7), opinion(1, (4, 8, 9, 10), 0.9, 0.3, 0.6, 0.6))
    tree = DraftTree(CONTEXT)
    tree.add(Draft("s", 3, found.token_ids, found.confidences, found.branches))
    tree.advance((4, 8))
    assert tree.path(8).token_ids == (9, 10)


@given(st.lists(OPINIONS, max_size=6), st.lists(st.integers(0, 2), max_size=12), st.data())
def test_memory_holds_only_what_is_not_judged_yet(
    rounds: list[list[Opinion]], text: list[int], data: st.DataObject
) -> None:
    """Each claim is judged at most once per guess, and nothing is judged that nobody guessed."""
    record = Record()
    merger, committed = Merger(record, 3), CONTEXT
    said = 0
    for opinions in rounds:
        at = job(committed, tuple(data.draw(st.lists(st.integers(0, 2), max_size=3))))
        merger.advance(at)
        merger.merge(at, opinions)
        said += len({prefix for one in opinions for prefix in itertools.accumulate((t,) for t in one.guess.token_ids)})
        committed += tuple(text[: data.draw(st.integers(0, 3))])
    merger.advance(job(committed))
    assert len(record.judged) <= said
