"""What a drafter keeps by outcome: where it goes on, what it sends, and what a commit leaves of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.core.types import (
    Branch,
    Commit,
    Draft,
    DraftJob,
    Graft,
    Guess,
    Pace,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tokens,
)
from paceline.speculation.draft_tree import DraftTree, key_of
from paceline.speculation.drafting import DraftingSession
from paceline.speculation.lookahead import GuessTree, best_block, choose_ends, join

SPEC = SessionSpec(
    "s", (1, 2, 3), 3, SamplingParams(), StopRules(100), window=8, fan_out=2, pace=Pace.LOOKAHEAD
)  # fmt: skip


def session(**changes: int) -> DraftingSession:
    return DraftingSession(replace(SPEC, **changes), max_window=64)


def other(position: int, token: int, chance: float = 0.1) -> Branch:
    return Branch(0, position, (token,), (chance,))


def ask(one: DraftingSession, *tail: int) -> DraftJob:
    job = one.job_at(tail, 3)
    assert job is not None
    return job


def tell(one: DraftingSession, tail: Tokens, tokens: Tokens, *branches: Branch) -> Draft:
    draft = one.extend(ask(one, *tail), Guess("s", tokens, (0.8,) * len(tokens), branches))
    assert draft is not None
    return draft


def begun() -> DraftingSession:
    """Three tokens ahead, with an alternative for the first and two for the second of them."""
    one = session()
    tell(one, (), (4, 5, 6), other(3, 40), other(4, 50), other(4, 51, 0.05))
    return one


def test_it_goes_on_where_the_target_comes_by_most_likely() -> None:
    ends = begun().open_ends()
    assert [end.tail for end in ends] == [(4, 5, 6), (40,), (4, 50), (4, 51)]
    assert [end.reach for end in ends] == pytest.approx([0.8**3, 0.1, 0.8 * 0.1, 0.8 * 0.05])


def test_a_session_that_does_not_look_ahead_goes_on_along_its_path_only() -> None:
    one = DraftingSession(replace(SPEC, pace=Pace.PIPELINE), max_window=64)
    one.extend(one.job(3), Guess("s", (4, 5, 6), (0.8,) * 3, (other(3, 40),)))  # type: ignore[arg-type]
    assert one.open_ends() == []


def test_outcomes_beyond_the_window_and_hardly_likely_ones_are_left_alone() -> None:
    one = session(window=3)
    tell(one, (), (4, 5, 6), other(3, 40), other(4, 50, 0.001))
    assert [end.tail for end in one.open_ends()] == [(40,)]


def graft(before: Tokens, *token_ids: int, first: float = 0.8) -> Graft:
    return Graft(key_of(before), token_ids, (first, *(0.8,) * (len(token_ids) - 1)))


def only(*grafts: Graft, base: int = 3) -> Draft:
    return Draft("s", base, (), grafts=grafts)


def test_what_follows_an_alternative_is_sent_alone_and_says_where_it_hangs() -> None:
    assert tell(begun(), (4, 50), (7, 8)) == only(graft((4, 50), 7, 8))


def test_everything_is_sent_once() -> None:
    one = begun()
    tell(one, (4, 50), (7, 8))
    assert tell(one, (4, 5, 6), (9,)) == only(graft((4, 5, 6), 9))


def test_alternatives_behind_an_alternative_are_sent_with_what_they_are_alternatives_to() -> None:
    draft = tell(begun(), (40,), (7, 8), other(5, 80, 0.2))
    assert draft == only(graft((40,), 7, 8), graft((40, 7), 80, first=0.2))


def test_what_is_hardly_likely_is_sent_when_it_has_become_likelier() -> None:
    one = session()
    begun = tell(one, (), (4, 5, 6, 7), other(3, 40), other(6, 70, 0.008))
    assert begun.branches == (other(3, 40),)
    one.commit(Commit("s", 3, (4, 5), drafted=2, accepted=2))
    assert tell(one, (6, 7), (8,)) == only(graft((6, 7), 8), graft((6,), 70, first=0.008), base=5)


def test_after_a_loss_all_is_sent_again() -> None:
    one = begun()
    for token in (4, 5):
        one.commit(Commit("s", one.position, (token,)))
    assert tell(one, (6,), (7,)).token_ids == (6, 7)


def test_a_verifier_that_gets_all_drafts_has_a_guess_behind_every_outcome_that_was_gone_on_from() -> None:
    one = session()
    drafts = [
        tell(one, (), (4, 5, 6), other(3, 40), other(4, 50), other(4, 51, 0.05)),
        tell(one, (40,), (7, 8)),
        tell(one, (4, 50), (9,), other(5, 90, 0.2)),
        tell(one, (4, 50, 90), (11,)),
    ]
    for said, expected in {
        (4, 5): (6,),
        (40,): (7, 8),
        (4, 50): (9,),
        (4, 50, 90): (11,),
        (4, 51): (),
        (99,): (),
    }.items():
        tree = DraftTree((1, 2, 3))
        for draft in drafts:
            tree.add(draft)
        assert tree.path(9).token_ids == (4, 5, 6)
        tree.advance(said)
        assert tree.path(9).token_ids == expected


def test_a_foreseen_correction_is_gone_on_from() -> None:
    one = begun()
    tell(one, (4, 50), (7, 8), other(5, 70, 0.2))
    one.commit(Commit("s", 3, (4, 50)))
    assert one.path == (7, 8)
    assert [end.tail for end in one.open_ends()] == [(7, 8), (70,)]
    assert tell(one, (7, 8), (9,)) == only(graft((7, 8), 9), base=5)


def test_a_correction_that_nobody_foresaw_begins_anew() -> None:
    one = begun()
    one.commit(Commit("s", 3, (4, 99)))
    assert one.path == ()
    assert [end.tail for end in one.open_ends()] == [()]


def test_answers_of_one_call_make_one_draft() -> None:
    one = begun()
    jobs = [ask(one, 4, 5, 6), ask(one, 40)]
    answers = [(jobs[0], Guess("s", (7,), (0.8,))), (jobs[1], Guess("s", (8,), (0.8,)))]
    assert one.extend_all(answers) == only(graft((4, 5, 6), 7), graft((40,), 8))


def test_an_outcome_that_nothing_comes_to_mind_after_is_not_asked_for_again() -> None:
    one = begun()
    assert one.extend(ask(one, 40), Guess("s", ())) is None
    assert (40,) not in [end.tail for end in one.open_ends()]


def test_an_answer_for_an_outcome_that_did_not_come_is_dropped() -> None:
    one = begun()
    job = ask(one, 40)
    one.commit(Commit("s", 3, (4,)))
    assert one.extend(job, Guess("s", (7, 8))) is None
    assert one.path == (5, 6)


def test_alternatives_that_never_come_true_are_held_for_less_and_less_likely() -> None:
    tree = GuessTree(1, keeps_others=True)

    def reach() -> float:
        tree.grow((5,), Guess("s", (5,), (0.5,), (Branch(0, 0, (6,), (0.4,)),)), 0)
        found = {end.tail: end.reach for end in tree.open_ends(9)}
        return found[6,]

    first = reach()
    for _ in range(30):
        reach()
        tree.advance((99,))
    assert reach() < first / 3
    for _ in range(60):
        reach()
        tree.advance((6,))
    assert reach() > first


@pytest.mark.parametrize(
    ("chance", "token_s", "expected"), [(0.8, 2.1, 7), (0.8, 0.0, 16), (0.5, 2.1, 3), (0.8, 30.0, 1), (0.0, 2.1, 1)]
)
def test_a_block_is_as_long_as_makes_most_tokens_per_second(chance: float, token_s: float, expected: int) -> None:
    assert best_block(chance, token_s, 30.0, 16) == expected


def test_other_outcomes_are_gone_on_from_as_long_as_they_make_a_call_worth_more() -> None:
    assert choose_ends([0.5, 0.2, 0.1], 0, lambda count: 1.0) == 3
    assert choose_ends([0.5, 0.2, 0.1], 0, lambda count: 1.0 + count / 2) == 2
    assert choose_ends([0.5, 0.2, 0.1], 0, lambda count: count) == 1
    assert choose_ends([0.5, 0.2], 4, lambda count: count) == 0
    assert choose_ends([], 0, lambda count: 1.0) == 0


PATH = Draft("s", 3, (4, 5), (0.8, 0.8), (Branch(0, 3, (7,), (0.1,)), Branch(1, 4, (8,), (0.1,))))


def test_a_draft_and_what_hangs_on_it_become_one() -> None:
    first, second = graft((4, 5), 6), graft((4, 5, 6), 9)
    both = join(join(PATH, only(first)), only(second))
    assert both == replace(PATH, grafts=(first, second))
    assert join(only(first), only(second)) == only(first, second)


def test_a_draft_of_another_path_or_another_commit_replaces_the_waiting_one() -> None:
    for newer in (PATH, replace(PATH, token_ids=(6, 5)), only(graft((4,), 5), base=4), Draft("s", 3, ())):
        assert join(PATH, newer) == newer
