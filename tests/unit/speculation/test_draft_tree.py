"""The draft tree against a model that simply remembers every draft."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import Branch, Draft, Graft
from paceline.speculation.draft_tree import KEYS, MAX_NODES, TAIL, DraftTree, Other, Path, check_draft, key_of

PROMPT = (1, 2, 3)


def draft(base: int, *tokens: int, branches: tuple[Branch, ...] = ()) -> Draft:
    return Draft("s", base, tokens, branches=branches)


def test_a_draft_for_the_present_position_is_the_path() -> None:
    tree = DraftTree(PROMPT)
    assert tree.add(draft(3, 4, 5, 6)) == 3
    assert tree.path(2).token_ids == (4, 5)
    assert tree.path(9).token_ids == (4, 5, 6)


def test_a_doubled_draft_adds_nothing() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5))
    assert tree.add(draft(3, 4, 5)) == 0


def test_committing_along_the_path_keeps_its_rest() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5, 6, 7))
    tree.advance((4, 5))
    assert tree.path(9).token_ids == (6, 7)


def test_committing_something_else_drops_the_path() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5, 6))
    tree.advance((4, 9))
    assert tree.path(9).token_ids == ()
    assert tree.num_nodes == 0


def test_a_late_draft_that_agrees_is_used_from_the_first_uncommitted_token_on() -> None:
    tree = DraftTree(PROMPT)
    tree.advance((4, 5))
    assert tree.add(draft(3, 4, 5, 6, 7)) == 2
    assert tree.path(9).token_ids == (6, 7)


def test_a_late_draft_that_disagrees_is_dropped() -> None:
    tree = DraftTree(PROMPT)
    tree.advance((4, 5))
    assert tree.add(draft(3, 4, 9, 6, 7)) == 0


def test_a_draft_beyond_the_committed_tokens_is_dropped() -> None:
    tree = DraftTree(PROMPT)
    assert tree.add(draft(4, 5, 6)) == 0


def test_a_correction_that_was_foreseen_has_its_continuation_ready() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5, 6, branches=(Branch(0, 4, (8, 9, 10)),)))
    assert tree.path(9).token_ids == (4, 5, 6)
    tree.advance((4, 8))
    assert tree.path(9).token_ids == (9, 10)


def test_branches_of_branches_are_followed() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, branches=(Branch(0, 4, (5, 6)), Branch(1, 5, (7, 8)))))
    tree.advance((4, 5, 7))
    assert tree.path(9).token_ids == (8,)


def test_what_a_branch_goes_on_with_is_preferred_to_what_branches_off_it() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, branches=(Branch(0, 3, (5, 6, 7)), Branch(1, 4, (8,)), Branch(0, 3, (5, 9)))))
    assert tree.path(9).token_ids == (4,)
    tree.advance((5,))
    assert tree.path(9).token_ids == (6, 7)


def test_the_newest_drafts_branches_are_preferred_too() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 5, 6))
    tree.add(draft(3, 4, branches=(Branch(0, 3, (5, 7)),)))
    tree.advance((5,))
    assert tree.path(9).token_ids == (7,)


def test_a_late_draft_whose_branch_agrees_is_used() -> None:
    tree = DraftTree(PROMPT)
    tree.advance((9,))
    assert tree.add(draft(3, 4, 5, branches=(Branch(0, 3, (9, 6, 7)),))) == 2
    assert tree.path(9).token_ids == (6, 7)


def test_the_newest_main_path_is_preferred() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5))
    tree.add(draft(3, 6, 7))
    assert tree.path(9).token_ids == (6, 7)


def test_a_draft_as_old_as_the_memory_is_used() -> None:
    tree = DraftTree(PROMPT)
    tree.advance(tuple(range(TAIL)))
    assert tree.add(draft(3, *range(TAIL), 77)) == 1
    assert tree.path(9).token_ids == (77,)
    assert DraftTree(PROMPT).add(draft(0, *PROMPT, 77)) == 1


def test_a_draft_older_than_the_memory_is_dropped() -> None:
    tree = DraftTree(PROMPT)
    tree.advance(tuple(range(TAIL + 1)))
    assert tree.add(draft(3, *range(TAIL + 1), 77)) == 0


def test_confidences_follow_their_tokens() -> None:
    tree = DraftTree(PROMPT)
    tree.add(Draft("s", 3, (4, 5), (0.9, 0.5)))
    assert tree.path(9).confidences == (0.9, 0.5)


@pytest.mark.parametrize(
    "bad",
    [
        draft(3, 4, 100),
        draft(3, -1),
        Draft("s", 3, (4, 5), (0.9,)),
        Draft("s", 3, (4,), (math.nan,)),
        Draft("s", 3, (4,), (math.inf,)),
        Draft("s", 3, (4,), (1.001,)),
        Draft("s", 3, (4,), (-5.0,)),
        draft(3, 4, branches=(Branch(0, 3, (5,), (math.nan,)),)),
        draft(3, 4, branches=(Branch(0, 3, (5, 6), (0.5,)),)),
        draft(3, 4, branches=(Branch(0, 3, (100,)),)),
        draft(3, 4, branches=(Branch(-1, 3, (5,)),)),
        draft(3, 4, branches=(Branch(1, 3, (5,)),)),
        draft(3, 4, branches=(Branch(0, 6, (5,)),)),
        draft(3, 4, branches=(Branch(0, 2, (5,)),)),
        draft(3, *([4] * 257)),
        draft(3, *([4] * 256), branches=(Branch(0, 259, (5,)),)),
        draft(3, *([4] * 256), branches=tuple(Branch(0, 258, (5,)) for _ in range(8))),
    ],
)
def test_drafts_that_no_honest_drafter_sends_are_refused(bad: Draft) -> None:
    with pytest.raises(InvalidRequest):
        check_draft(bad, 100)


def test_the_largest_drafts_and_surest_confidences_are_fine() -> None:
    check_draft(draft(3, *([4] * 256), branches=(Branch(0, 258, (5,)), Branch(1, 259, (), ()))), 5 + 1)
    check_draft(Draft("s", 3, (0, 99), (0.0, 1.0)), 100)
    check_draft(draft(3), 100)


tokens = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("draft"), st.integers(0, 4), tokens),
            st.tuples(st.just("commit"), st.just(0), st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple)),
        ),
        max_size=30,
    )
)
@settings(max_examples=300, deadline=None)
def test_the_path_always_continues_the_committed_tokens_with_something_that_was_drafted(
    events: list[tuple[str, int, tuple[int, ...]]],
) -> None:
    """Model: a path is right iff committed + path begins some draft's own context + tokens, and none is missed."""
    committed, tree, claims = list(PROMPT), DraftTree(PROMPT), []
    for kind, back, ids in events:
        if kind == "commit":
            committed += ids
            tree.advance(ids)
        else:
            base = max(0, len(committed) - back)
            tree.add(draft(base, *ids))
            claims.append((*committed[:base], *ids))
        path = tree.path(99).token_ids
        full = (*committed, *path)
        useful = [one for one in claims if len(one) > len(committed) and one[: len(committed)] == tuple(committed)]
        assert not path or any(one[: len(full)] == full for one in claims)
        assert bool(path) == bool(useful)
        assert tree.position == len(committed)
        assert tree.num_nodes <= MAX_NODES


def test_a_draft_that_does_not_fit_replaces_everything_older() -> None:
    tree = DraftTree(PROMPT)
    for first in range(3):
        tree.add(draft(3, first, *[7] * 199))
    assert tree.path(999).token_ids == (2, *[7] * 199)
    assert tree.num_nodes == 200


def test_a_draft_of_no_use_never_replaces_one_of_use() -> None:
    tree = DraftTree(PROMPT)
    tree.advance((4,))
    tree.add(draft(4, *[5] * 256))
    tree.add(draft(4, 6, *[5] * 255))
    assert tree.add(draft(3, 9, *[7] * 255)) == 0
    assert tree.num_nodes == MAX_NODES
    assert tree.path(3).token_ids == (6, 5, 5)


def test_memory_stays_bounded_whatever_is_added() -> None:
    tree = DraftTree(PROMPT)
    for i in range(100):
        tree.add(draft(3, *range(i, i + 200)))
        assert tree.num_nodes <= MAX_NODES


def test_other_guesses_stand_beside_the_path_the_surest_first() -> None:
    branches = (
        Branch(0, 3, (8,), (0.1,)),
        Branch(0, 3, (9, 1), (0.3, 0.5)),
        Branch(0, 3, (7,)),
        Branch(0, 4, (6,), (0.2,)),
    )
    tree = DraftTree(PROMPT)
    tree.add(Draft("s", 3, (4, 5, 6), (0.5, 0.5, 0.5), branches))
    others = (Other(0, 9, 0.3), Other(0, 8, 0.1), Other(0, 7, None), Other(1, 6, 0.2))
    assert tree.path(9) == Path((4, 5, 6), (0.5, 0.5, 0.5), others)
    assert tree.path(1) == Path((4,), (0.5,), others[:3])


def test_a_guess_that_a_newer_draft_has_replaced_stands_beside_it() -> None:
    tree = DraftTree(PROMPT)
    tree.add(Draft("s", 3, (4, 5), (0.4, 0.5)))
    tree.add(Draft("s", 3, (6, 7), (0.6, 0.5)))
    assert tree.path(9) == Path((6, 7), (0.6, 0.5), (Other(0, 4, 0.4),))


def test_few_stand_beside_a_place_however_many_there_are() -> None:
    tree = DraftTree(PROMPT)
    branches = tuple(Branch(0, 3, (token,), (token / 100,)) for token in range(20, 40))
    tree.add(Draft("s", 3, (4,), (0.5,), branches))
    assert [one.token for one in tree.path(9).others] == list(range(39, 31, -1))


@pytest.mark.parametrize(
    ("tokens", "count"), [((), 0), ((4,), 1), ((9,), 0), ((4, 5, 6, 7), 3), ((4, 9, 6), 1), ((4, 5, 9), 2)]
)
def test_what_is_right_of_a_path_ends_with_its_first_error(tokens: tuple[int, ...], count: int) -> None:
    assert Path((4, 5, 6), (None,) * 3).count_right(tokens) == count


def grafted(base: int, *grafts: Graft) -> Draft:
    return Draft("s", base, (), grafts=grafts)


def hang(*before: int, on: tuple[int, ...]) -> Graft:
    return Graft(key_of(before), on)


def test_a_graft_goes_on_where_an_earlier_draft_ended_or_forked() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5, branches=(Branch(0, 3, (8,)),)))
    assert tree.add(grafted(3, hang(4, 5, on=(6, 7)), hang(8, on=(9,)), hang(4, on=(1, 2)))) == 5
    assert tree.path(9).token_ids == (4, 5, 6, 7)
    for said, expected in {(4, 5): (6, 7), (8,): (9,), (4, 1): (2,)}.items():
        other = DraftTree(PROMPT)
        other.add(draft(3, 4, 5, branches=(Branch(0, 3, (8,)),)))
        other.add(grafted(3, hang(4, 5, on=(6, 7)), hang(8, on=(9,)), hang(4, on=(1, 2))))
        other.advance(said)
        assert other.path(9).token_ids == expected


def test_a_graft_hangs_on_a_graft_before_it_in_the_same_draft() -> None:
    tree = DraftTree(PROMPT)
    assert tree.add(grafted(3, hang(on=(4,)), hang(4, on=(5,)), hang(4, 5, on=(6,)))) == 3
    assert tree.path(9).token_ids == (4, 5, 6)


def test_a_graft_whose_place_is_not_known_is_dropped() -> None:
    tree = DraftTree(PROMPT)
    assert tree.add(grafted(3, hang(4, 5, on=(6, 7)))) == 0
    tree.add(draft(3, 4, 5))
    assert tree.add(grafted(2, hang(4, 5, on=(6, 7)))) == 0
    assert tree.add(grafted(9, hang(on=(6, 7)))) == 0
    assert tree.path(9).token_ids == (4, 5)


def test_a_late_graft_is_used_where_it_agrees_with_what_was_committed_meanwhile() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5, 6))
    tree.advance((4, 5))
    late = (hang(4, 5, 6, on=(7,)), hang(4, on=(5, 9)), hang(on=(4, 5, 8)), hang(4, on=(1, 2)), hang(on=(4,)))
    assert tree.add(grafted(3, *late)) == 3
    assert tree.path(9).token_ids == (6, 7)
    assert [(other.index, other.token) for other in tree.path(9).others] == [(0, 9), (0, 8)]


def test_a_graft_beside_a_path_leaves_the_path_the_favourite_and_a_whole_path_takes_its_place() -> None:
    tree = DraftTree(PROMPT)
    tree.add(draft(3, 4, 5))
    tree.add(grafted(3, hang(on=(8, 9))))
    assert tree.path(9).token_ids == (4, 5)
    tree.add(draft(3, 8))
    assert tree.path(9).token_ids == (8, 9)


few_tokens = st.lists(st.integers(0, 3), max_size=5).map(tuple)


@given(st.lists(st.tuples(few_tokens, few_tokens), max_size=8))
def test_whatever_is_grafted_the_tree_counts_what_it_holds(
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    tree = DraftTree(PROMPT)
    num_new = sum(tree.add(grafted(3, hang(*before, on=on))) for before, on in parts)
    assert tree.num_nodes == num_new <= MAX_NODES


@pytest.mark.parametrize("after", [-1, KEYS])
def test_a_key_that_no_place_has_is_refused(after: int) -> None:
    with pytest.raises(InvalidRequest, match="no key of a place"):
        check_draft(grafted(3, Graft(after, (1,))), 10)


def test_grafts_are_held_to_the_same_rules_as_paths() -> None:
    for graft, reason in ((Graft(0, (10,)), "outside the vocabulary"), (Graft(0, (1,), (0.5, 0.5)), "2 for 1 tokens")):
        with pytest.raises(InvalidRequest, match=reason):
            check_draft(grafted(3, graft), 10)
