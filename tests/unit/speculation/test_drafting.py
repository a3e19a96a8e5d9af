"""A drafter's session: its path is always a continuation of what is committed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import Gap, InvalidRequest
from paceline.core.types import (
    Branch,
    Commit,
    Credit,
    Draft,
    FeatureFrame,
    Graft,
    Guess,
    KvFrame,
    KvShape,
    Needs,
    Pace,
    SamplingParams,
    SessionSpec,
    StepTimings,
    StopRules,
    Tokens,
)
from paceline.speculation.draft_tree import key_of
from paceline.speculation.drafting import DraftingSession

SPEC = SessionSpec("s", (1, 2, 3), 3, SamplingParams(), StopRules(100), window=6)


def session(window: int = 6) -> DraftingSession:
    return DraftingSession(replace(SPEC, window=window), max_window=64)


def commit(start: int, *tokens: int) -> Commit:
    return Commit("s", start, tokens)


def test_it_guesses_ahead_until_its_window_is_full() -> None:
    one = session()
    job = one.job(4)
    assert job is not None
    assert (job.context, job.committed, job.max_tokens) == ((1, 2, 3), 3, 4)
    draft = one.extend(job, Guess("s", (4, 5, 6, 7)))
    assert draft is not None
    assert (draft.base, draft.token_ids) == (3, (4, 5, 6, 7))
    job = one.job(4)
    assert job is not None
    assert (job.context, job.max_tokens) == ((1, 2, 3, 4, 5, 6, 7), 2)
    draft = one.extend(job, Guess("s", (8, 9)))
    assert draft == Draft("s", 3, (), grafts=(Graft(key_of((4, 5, 6, 7)), (8, 9), (0.5, 0.5)),))
    assert one.job(4) is None


def test_a_commit_along_the_path_opens_the_window_again() -> None:
    one = session()
    one.extend(one.job(6), Guess("s", (4, 5, 6, 7, 8, 9)))  # type: ignore[arg-type]
    one.commit(commit(3, 4, 5))
    job = one.job(6)
    assert job is not None
    assert (job.context, job.committed, job.max_tokens) == ((1, 2, 3, 4, 5, 6, 7, 8, 9), 5, 2)


def test_a_correction_rolls_the_path_back() -> None:
    one = session()
    one.extend(one.job(6), Guess("s", (4, 5, 6)))  # type: ignore[arg-type]
    one.commit(commit(3, 4, 9))
    job = one.job(6)
    assert job is not None
    assert (job.context, job.committed) == ((1, 2, 3, 4, 9), 5)


def test_a_guess_that_a_commit_overtook_is_used_where_it_agrees() -> None:
    one = session()
    job = one.job(6)
    one.commit(commit(3, 4, 5))
    draft = one.extend(job, Guess("s", (4, 5, 6, 7)))  # type: ignore[arg-type]
    assert draft is not None
    assert (draft.base, draft.token_ids) == (5, (6, 7))


def test_a_guess_that_a_commit_contradicts_is_dropped() -> None:
    one = session()
    job = one.job(6)
    one.commit(commit(3, 9))
    assert one.extend(job, Guess("s", (4, 5))) is None  # type: ignore[arg-type]
    assert one.num_pending == 0


def test_nothing_to_say_is_said_once_per_position() -> None:
    one = session()
    draft = one.extend(one.job(6), Guess("s", ()))  # type: ignore[arg-type]
    assert draft is not None
    assert draft.token_ids == ()
    assert one.job(6) is None
    one.commit(commit(3, 4))
    assert one.job(6) is not None


def test_nothing_to_say_is_said_again_at_the_next_position() -> None:
    one = session()
    said = []
    for token in (4, 5):
        said.append(one.extend(one.job(6), Guess("s", ())))  # type: ignore[arg-type]
        one.commit(commit(one.position, token))
    assert said == [Draft("s", 3, ()), Draft("s", 4, ())]


def test_a_drafter_with_guesses_pending_does_not_say_that_it_has_none() -> None:
    one = session()
    one.extend(one.job(4), Guess("s", (4, 5, 6, 7)))  # type: ignore[arg-type]
    assert one.extend(one.job(4), Guess("s", ())) is None  # type: ignore[arg-type]
    assert one.num_pending == 4


def test_a_drafter_that_said_less_than_it_was_asked_for_is_asked_again_after_a_commit() -> None:
    one = session()
    one.extend(one.job(6), Guess("s", (4, 5)))  # type: ignore[arg-type]
    assert one.job(6) is None
    one.commit(commit(3, 4))
    assert one.job(6) is not None


@pytest.mark.parametrize("guess", [(4, 5), ()])
def test_a_short_guess_that_a_commit_overtook_is_no_reason_not_to_ask(guess: tuple[int, ...]) -> None:
    one = session()
    one.extend(one.job(2), Guess("s", (4, 5)))  # type: ignore[arg-type]
    job = one.job(4)
    one.commit(commit(3, 4))
    one.extend(job, Guess("s", guess))  # type: ignore[arg-type]
    assert one.job(6) is not None


def test_confidences_stay_with_their_tokens_when_a_commit_overtakes_a_guess() -> None:
    one = session()
    job = one.job(4)
    one.commit(commit(3, 4, 5))
    draft = one.extend(job, Guess("s", (4, 5, 6, 7), (0.9, 0.8, 0.7, 0.6)))  # type: ignore[arg-type]
    assert draft == Draft("s", 5, (6, 7), (0.7, 0.6))


def test_the_window_is_the_smaller_of_what_is_asked_for_and_what_there_is() -> None:
    job = DraftingSession(SPEC, max_window=4).job(64)
    assert job is not None
    assert job.max_tokens == 4
    assert DraftingSession(replace(SPEC, window=-1), max_window=4).job(64) is None


def test_credit_is_never_taken_back() -> None:
    one = session()
    for until in (6, 4):
        one.grant(Credit("s", until))
    job = one.job(6)
    assert job is not None
    assert job.max_tokens == 3


def test_doubled_and_overlapping_commits_are_fine() -> None:
    one = session()
    one.commit(commit(3, 4, 5))
    one.commit(commit(3, 4, 5))
    one.commit(commit(4, 5, 6))
    assert one.position == 6


def test_a_missing_commit_is_an_error() -> None:
    with pytest.raises(Gap):
        session().commit(commit(4, 9))


def test_credit_limits_how_far_guesses_reach() -> None:
    one = session()
    one.grant(Credit("s", 5))
    job = one.job(6)
    assert job is not None
    assert job.max_tokens == 2


def test_guesses_end_before_the_last_token_of_the_output() -> None:
    one = DraftingSession(replace(SPEC, stops=StopRules(3)), max_window=64)
    job = one.job(6)
    assert job is not None
    assert job.max_tokens == 2


def test_a_session_without_context_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        DraftingSession(replace(SPEC, context=()), max_window=64)


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), min_size=1, max_size=4)), max_size=40))
@settings(max_examples=300, deadline=None)
def test_every_draft_stands_on_committed_tokens_and_stays_within_the_window(
    events: list[tuple[bool, list[int]]],
) -> None:
    one, committed, pending = session(), [1, 2, 3], None
    for is_commit, tokens in events:
        if is_commit:
            one.commit(commit(len(committed), *tokens))
            committed += tokens
        elif pending is None:
            pending = one.job(len(tokens))
        else:
            draft = one.extend(pending, Guess("s", tuple(tokens[: pending.max_tokens])))
            if draft is not None:
                assert draft.base == len(committed)
                assert len(draft.token_ids) <= 6
                assert len(draft.confidences) == len(draft.token_ids)
            pending = None
        assert one.position == len(committed)


def branch(position: int, *tokens: int) -> Branch:
    return Branch(0, position, tokens, (0.5,) * len(tokens))


def branching(one: DraftingSession, tokens: Tokens, *branches: Branch) -> Draft:
    job = one.job(16)
    assert job is not None
    draft = one.extend(job, Guess("s", tokens, (0.5,) * len(tokens), branches))
    assert draft is not None
    return draft


def test_branches_travel_with_the_path() -> None:
    found = branching(session(), (4, 5), branch(3, 8, 9), branch(4, 7))
    assert found.branches == (branch(3, 8, 9), branch(4, 7))


def test_branches_end_where_the_window_or_the_credit_does() -> None:
    narrow = branching(session(3), (4, 5, 6), branch(4, 7, 8, 9), branch(5, 1))
    assert narrow.branches == (branch(4, 7, 8), branch(5, 1))
    owing = session(6)
    owing.grant(Credit("s", 5))
    assert branching(owing, (4, 5), branch(4, 7, 8, 9), branch(5, 1)).branches == (branch(4, 7),)


def test_no_more_alternatives_per_position_than_were_asked_for() -> None:
    for most in (1, 2):
        one = DraftingSession(replace(SPEC, fan_out=most), max_window=64)
        found = branching(one, (4, 5), branch(3, 7), branch(3, 8), branch(3, 9), branch(4, 9))
        assert [branch.position for branch in found.branches] == [3] * most + [4]


def test_a_session_that_wants_no_alternatives_gets_none() -> None:
    one = DraftingSession(replace(SPEC, fan_out=0), max_window=64)
    assert branching(one, (4, 5), branch(3, 7)).branches == ()


def test_branches_are_sent_once_while_the_path_goes_on_and_their_place_is_open() -> None:
    one = session(8)
    branching(one, (4, 5, 6), branch(3, 9), branch(4, 8), branch(5, 7))
    one.commit(commit(3, 4))
    found = branching(one, (1, 2), branch(7, 3))
    assert (found.base, found.token_ids, found.branches) == (4, (), ())
    assert found.grafts == (
        Graft(key_of((5, 6)), (1, 2), (0.5, 0.5)),
        Graft(key_of((5, 6, 1)), (3,), (0.5,)),
    )


def test_a_verifier_that_checks_nothing_of_what_was_sent_is_told_again_ever_more_rarely() -> None:
    one, told = session(), []
    one.extend(one.job(6), Guess("s", (4, 5, 6, 7, 8, 9)))  # type: ignore[arg-type]
    for index in range(16):
        one.commit(commit(3 + index, 4 + index))
        draft = one.extend(one.job(1), Guess("s", (10 + index,)))  # type: ignore[arg-type]
        assert draft is not None
        told += [index + 1] if draft.token_ids else []
        assert (draft.token_ids or draft.grafts[0].token_ids)[-1] == 10 + index
    assert told == [2, 4, 8, 16]


def test_a_verifier_that_checks_what_was_sent_is_told_nothing_twice() -> None:
    one = session()
    one.extend(one.job(6), Guess("s", (4, 5, 6, 7, 8, 9)))  # type: ignore[arg-type]
    for index in range(8):
        one.commit(replace(commit(3 + index, 4 + index), drafted=index % 2))
        draft = one.extend(one.job(1), Guess("s", (10 + index,)))  # type: ignore[arg-type]
        assert draft is not None
        assert draft.token_ids == ()


def test_a_correction_drops_the_branches_with_the_path() -> None:
    one = session()
    branching(one, (4, 5), branch(3, 9, 8))
    one.commit(commit(3, 9))
    assert branching(one, (8,)).branches == ()


def in_step(**changes: Any) -> DraftingSession:
    return DraftingSession(replace(SPEC, pace=Pace.SYNC, **changes), max_window=64)


def test_in_step_with_its_verifier_it_guesses_one_block_and_waits_for_the_verdict() -> None:
    one = in_step()
    one.extend(one.job(3), Guess("s", (4, 5, 6)))  # type: ignore[arg-type]
    assert one.job(3) is None
    one.commit(commit(3, 4))
    job = one.job(3)
    assert job is not None
    assert (job.context, job.committed) == ((1, 2, 3, 4), 4)


def test_a_block_that_a_verdict_overtook_is_sent_as_far_as_it_agrees() -> None:
    one = in_step()
    job = one.job(3)
    one.commit(commit(3, 4))
    assert job is not None
    late = one.extend(job, Guess("s", (4, 5, 6)))
    assert late is not None
    assert (late.base, late.token_ids) == (4, (5, 6))


def test_a_block_for_a_verifier_that_waits_is_as_long_as_its_time_and_that_of_a_step_want() -> None:
    one = session(16)
    one.commit(replace(commit(3, 4), timings=StepTimings(forward_s=0.03)))
    assert one.step_s == 0.03
    assert one.block(0.03) == 1
    assert one.block(1e-9) == 16
    assert one.block(0.001) > one.block(0.01) > 1


def test_who_starts_anew_begins_at_the_last_commit_and_is_asked_again() -> None:
    one = session()
    one.extend(one.job(6), Guess("s", (4, 5, 6, 7, 8, 9)))  # type: ignore[arg-type]
    one.commit(commit(3, 4, 5))
    one.restart()
    job = one.job(6)
    assert job is not None
    assert (job.context, job.committed, job.max_tokens) == ((1, 2, 3, 4, 5), 5, 6)
    one.extend(job, Guess("s", ()))
    assert one.job(6) is None
    one.restart()
    assert one.job(6) == job


def test_a_session_that_is_taken_up_has_all_its_committed_tokens_as_context() -> None:
    one = session()
    assert one.as_opened_now() == one.spec
    one.extend(one.job(6), Guess("s", (4, 5, 6)))  # type: ignore[arg-type]
    one.commit(commit(3, 4, 9))
    assert one.as_opened_now() == replace(one.spec, context=(1, 2, 3, 4, 9))


def with_features(start: int, *tokens: int, rows: tuple[int, int], width: int = 4) -> Commit:
    first, end = rows
    return replace(commit(start, *tokens), features=FeatureFrame(first, end - first, bytes(width) * (end - first)))


def hungry(history: int = 8) -> DraftingSession:
    return DraftingSession(SPEC, max_window=64, needs=Needs((1, -1), history, hidden_size=1))


def test_hidden_states_come_with_the_next_job_and_only_with_that() -> None:
    one = hungry()
    one.commit(with_features(3, 4, 5, rows=(0, 4)))
    one.commit(with_features(5, 6, rows=(4, 5)))
    job = one.job(2)
    assert job is not None
    assert job.features == (FeatureFrame(0, 5, bytes(20)),)
    one.extend(job, Guess("s", (7, 8)))
    later = one.job(2)
    assert later is not None
    assert later.features == ()


def test_hidden_states_that_wait_for_a_job_are_no_more_than_are_of_use() -> None:
    one = hungry(history=3)
    for at in range(3, 20):
        one.commit(with_features(at, 9, rows=(at - 1, at)))
    job = one.job(2)
    assert job is not None
    assert job.features == (FeatureFrame(16, 3, bytes(12)),)


def test_hidden_states_that_nobody_asked_for_are_dropped() -> None:
    one = session()
    one.commit(with_features(3, 4, rows=(0, 3)))
    job = one.job(2)
    assert job is not None
    assert job.features == ()


def test_hidden_states_of_another_model_or_of_tokens_to_come_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="rows of 6 bytes, but 2 hidden states of 1 numbers have 4"):
        hungry().commit(with_features(3, 4, rows=(0, 3), width=6))
    with pytest.raises(InvalidRequest, match="up to position 3, but the newest committed token is at 3"):
        hungry().commit(with_features(3, 4, rows=(0, 4)))


SHAPE = KvShape("full_attention", 1, 1)


def kv(start: int, end: int, kind: str = "full_attention", width: int = 4) -> KvFrame:
    rows = b"".join(at.to_bytes(width, "little") for at in range(start, end))
    return KvFrame("s", kind, FeatureFrame(start, end - start, rows))


def reading() -> DraftingSession:
    return DraftingSession(SPEC, max_window=64, needs=Needs(kv=(SHAPE,)))


def test_keys_and_values_come_with_the_job_behind_the_commit_of_their_tokens() -> None:
    one = reading()
    for frame in (kv(0, 2), kv(2, 4)):
        one.add_kv(frame)
    first = one.job(2)
    assert first is not None
    assert first.kv == (kv(0, 2),)  # the newest token, at 2, has no row yet
    one.extend(first, Guess("s", (7, 8)))
    one.commit(commit(3, 7, 9))
    second = one.job(2)
    assert second is not None
    assert second.kv == (kv(2, 4),)
    third = one.job(2)
    assert third is not None
    assert third.kv == ()


def test_who_starts_anew_gets_all_keys_and_values_again() -> None:
    one = reading()
    one.add_kv(kv(0, 2))
    assert one.job(2) is not None
    one.restart()
    job = one.job(2)
    assert job is not None
    assert job.kv == (kv(0, 2),)


def test_keys_and_values_that_nobody_asked_for_are_dropped_and_those_of_another_model_refused() -> None:
    one = reading()
    one.add_kv(kv(0, 2, "sliding_attention"))
    job = one.job(2)
    assert job is not None
    assert job.kv == ()
    with pytest.raises(InvalidRequest, match="kv: rows of 6 bytes"):
        one.add_kv(kv(0, 2, width=6))
    with pytest.raises(InvalidRequest, match="kv: rows reach up to position 4095"):
        one.add_kv(kv(0, 4096))
