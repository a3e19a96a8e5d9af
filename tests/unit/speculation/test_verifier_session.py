"""A verifier's session against a target that is a simple function of the context."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    Alternative,
    Branch,
    Credit,
    Draft,
    FinishReason,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepOutcome,
    StepTimings,
    StopRules,
)
from paceline.speculation.alternatives import AlternativeLearner
from paceline.speculation.draft_tree import Path
from paceline.speculation.session import VerifierSession

VOCAB = 7
SPEC = SessionSpec("s", (1, 2, 3), 3, SamplingParams(), StopRules(20), max_draft=4)


def target(context: tuple[int, ...]) -> int:
    return (sum(context[-3:]) * 5 + len(context)) % VOCAB


def outcome(item: StepItem, committed: tuple[int, ...]) -> StepOutcome:
    """What a right back end answers."""
    assert (*committed, *item.tokens[item.num_committed :])[item.start : item.start + len(item.tokens)] == item.tokens
    if not item.sample:
        return StepOutcome(item.session, ())
    context, out = committed, []
    for index in range(item.num_draft + 1):
        out.append(target(context))
        context = (*context, out[-1])
        if index < item.num_draft and out[-1] != item.tokens[item.num_committed + index]:
            if Alternative(index, out[-1]) in item.alternatives:
                out.append(target(context))
            break
    return StepOutcome(item.session, tuple(out), len(out) - 1)


def reference(spec: SessionSpec) -> tuple[int, ...]:
    context = spec.context
    while len(context) - spec.prompt_length < spec.stops.max_tokens:
        token = target(context)
        context = (*context, token)
        if token in spec.stops.stop_token_ids:
            break
    return context[len(spec.context) :]


def guess(committed: tuple[int, ...], late: int, right: int, then: tuple[int, ...]) -> Draft:
    """A draft that is ``late`` tokens behind, goes on with ``right`` tokens, and with others ``then``."""
    base = max(0, len(committed) - late)
    context = committed
    branches = []
    for index in range(right):
        branches.append(Branch(0, base + len(context[base:]), ((target(context) + index) % VOCAB,)))
        context = (*context, target(context))
    branches.append(Branch(0, len(context), (target(context),)))
    return Draft("s", base, (*context[base:], *then), branches=tuple(branches))


def finish(
    session: VerifierSession, drafts: list[tuple[int, int, tuple[int, ...]]], max_rows: int = 99
) -> tuple[int, ...]:
    committed, out = session.spec.context, ()
    while session.finish is None:
        if drafts:
            session.add(guess(committed, *drafts.pop(0)))
        beside = tuple(Alternative(one.index, one.token) for one in session.path().others)
        commit = session.apply(outcome(session.rows(max_rows, 4, beside), committed), StepTimings())
        if commit is not None:
            assert commit.start == len(committed)
            assert commit.accepted <= commit.drafted
            committed, out = committed + commit.token_ids, out + commit.token_ids
    return out


drafts = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 8), st.lists(st.integers(0, VOCAB - 1), max_size=4).map(tuple)),
    max_size=12,
)


@given(drafts, st.integers(1, 6), st.sets(st.integers(0, VOCAB - 1), max_size=2), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_the_output_never_depends_on_drafts_or_chunks(
    given_drafts: list[tuple[int, int, tuple[int, ...]]], max_rows: int, stops: set[int], max_tokens: int
) -> None:
    spec = replace(SPEC, stops=StopRules(max_tokens, tuple(stops)))
    session = VerifierSession(spec, max_context=100, vocab_size=VOCAB)
    assert finish(session, given_drafts, max_rows) == reference(spec)


def test_right_drafts_are_accepted_together_with_a_token_of_the_target() -> None:
    session = VerifierSession(SPEC, max_context=100, vocab_size=VOCAB)
    session.add(Draft("s", 3, reference(SPEC)[:3]))
    commit = session.apply(outcome(session.rows(99, 4), SPEC.context), StepTimings())
    assert commit is not None
    assert (commit.drafted, commit.accepted, commit.token_ids) == (3, 3, reference(SPEC)[:4])


def test_a_second_choice_that_is_right_is_committed_with_the_token_behind_it() -> None:
    session, text = VerifierSession(SPEC, max_context=100, vocab_size=VOCAB), reference(SPEC)
    wrong = (text[1] + 1) % VOCAB
    session.add(Draft("s", 3, (text[0], wrong, text[2]), branches=(Branch(0, 4, (text[1], text[2])),)))
    item = session.rows(99, 4, (Alternative(1, text[1]), Alternative(3, 0)))
    assert item.alternatives == (Alternative(1, text[1]),)
    assert (item.num_rows, item.num_checked) == (7, 4)
    commit = session.apply(outcome(item, SPEC.context), StepTimings())
    assert commit is not None
    assert (commit.drafted, commit.accepted, commit.token_ids) == (4, 2, text[:3])
    assert session.num_pending == 1
    assert session.rows(99, 4).start == len(SPEC.context) + 2


def test_a_second_choice_counts_as_an_error_of_the_first() -> None:
    taken, missed = (VerifierSession(SPEC, max_context=100, vocab_size=VOCAB) for _ in range(2))
    text = reference(SPEC)
    draft = Draft("s", 3, ((text[0] + 1) % VOCAB,), (0.5,), (Branch(0, 3, text[:1], (0.3,)),))
    for session, beside in ((taken, (Alternative(0, text[0]),)), (missed, ())):
        session.add(draft)
        path = session.path()
        session.apply(outcome(session.rows(99, 1, beside), SPEC.context), StepTimings())
        assert session.seconds.chances(path) > AlternativeLearner().chances(path)
    assert taken.acceptance.chances(path) == missed.acceptance.chances(path)
    assert taken.seconds.chances(path) == missed.seconds.chances(path)


def test_a_session_taken_over_later_gives_the_same_rest() -> None:
    whole = reference(SPEC)
    spec = replace(SPEC, context=SPEC.context + whole[:7])
    assert finish(VerifierSession(spec, max_context=100, vocab_size=VOCAB), []) == whole[7:]


def test_the_context_limit_ends_a_session_with_length() -> None:
    session = VerifierSession(replace(SPEC, stops=StopRules(50)), max_context=10, vocab_size=VOCAB)
    assert len(finish(session, [])) == 7
    assert session.finish is FinishReason.LENGTH


def test_a_stop_id_ends_a_session_and_is_committed() -> None:
    token = reference(SPEC)[5]
    first = reference(SPEC).index(token)
    session = VerifierSession(replace(SPEC, stops=StopRules(20, (token,))), max_context=100, vocab_size=VOCAB)
    assert finish(session, []) == reference(SPEC)[: first + 1]
    assert session.finish is FinishReason.STOP


def test_nothing_is_committed_beyond_the_credit() -> None:
    session = VerifierSession(SPEC, max_context=100, vocab_size=VOCAB)
    session.grant(Credit("s", 5))
    session.add(Draft("s", 3, reference(SPEC)[:4]))
    commit = session.apply(outcome(session.rows(99, 4), SPEC.context), StepTimings())
    assert commit is not None
    assert len(commit.token_ids) == 2
    assert not session.is_ready
    session.grant(Credit("s", 6))
    assert session.is_ready


def test_nothing_is_drafted_or_committed_beyond_the_last_token() -> None:
    session = VerifierSession(replace(SPEC, stops=StopRules(3)), max_context=100, vocab_size=VOCAB)
    session.add(Draft("s", 3, reference(SPEC)[:4]))
    commit = session.apply(outcome(session.rows(99, 4), SPEC.context), StepTimings())
    assert commit is not None
    assert (commit.drafted, commit.token_ids, commit.finish) == (2, reference(SPEC)[:3], FinishReason.LENGTH)


def test_nothing_behind_a_stop_id_inside_the_drafts_is_committed() -> None:
    whole, stop = reference(SPEC)[:4], 0
    assert whole.index(stop) == 2
    spec = replace(SPEC, stops=StopRules(20, (stop,)))
    session = VerifierSession(spec, max_context=100, vocab_size=VOCAB)
    session.add(Draft("s", 3, whole))
    commit = session.apply(outcome(session.rows(99, 4), SPEC.context), StepTimings())
    assert commit is not None
    assert (commit.accepted, commit.finish) == (4, FinishReason.STOP)
    assert commit.token_ids == whole[:3]
    assert not session.is_ready


def test_a_stop_id_that_is_the_last_token_too_ends_a_session_with_stop() -> None:
    session = VerifierSession(
        replace(SPEC, stops=StopRules(1, (reference(SPEC)[0],))), max_context=100, vocab_size=VOCAB
    )
    assert finish(session, []) == reference(SPEC)[:1]
    assert session.finish is FinishReason.STOP


def test_credit_is_never_taken_back() -> None:
    session = VerifierSession(SPEC, max_context=100, vocab_size=VOCAB)
    for until in (6, 4):
        session.grant(Credit("s", until))
    session.add(Draft("s", 3, reference(SPEC)[:4]))
    assert len(session.path()) == 2


def test_a_draft_that_no_honest_drafter_sends_is_refused_and_changes_nothing() -> None:
    session = VerifierSession(SPEC, max_context=100, vocab_size=VOCAB)
    session.add(Draft("s", 3, (1, 2)))
    with pytest.raises(InvalidRequest):
        session.add(Draft("s", 3, (3, VOCAB)))
    assert session.path().token_ids == (1, 2)


def test_a_session_learns_from_every_checked_draft_and_forgets_while_there_is_none() -> None:
    session = VerifierSession(replace(SPEC, stops=StopRules(90)), max_context=100, vocab_size=VOCAB)
    committed = [1, 2, 3]

    def step(*drafts: int) -> float:
        session.add(Draft("s", len(committed), drafts))
        commit = session.apply(outcome(session.rows(99, 4), tuple(committed)), StepTimings())
        committed.extend(commit.token_ids if commit else ())
        return session.acceptance.chances(Path((0,), (None,)))[0]

    start = session.acceptance.chances(Path((0,), (None,)))[0]
    right = [step(target(tuple(committed))) for _ in range(3)]
    assert start < right[0] < right[1] < right[2]
    wrong = [step((target(tuple(committed)) + 1) % VOCAB) for _ in range(6)]
    assert right[2] > wrong[0] > wrong[1] > wrong[5]
    idle = [step() for _ in range(30)]
    assert wrong[5] < idle[0] < idle[29] < start


def test_a_session_that_wants_no_drafts_ignores_them() -> None:
    session = VerifierSession(replace(SPEC, max_draft=0), max_context=100, vocab_size=VOCAB)
    assert session.add(Draft("s", 3, (1, 2))) == 0
    assert session.rows(99, 4).num_draft == 0


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        (replace(SPEC, context=()), "at least one token"),
        (replace(SPEC, prompt_length=0), "prompt_length must lie inside"),
        (replace(SPEC, prompt_length=4), "prompt_length must lie inside"),
        (replace(SPEC, context=(1, 2, VOCAB)), "outside the vocabulary"),
        (replace(SPEC, context=(-1, 2, 3)), "outside the vocabulary"),
        (replace(SPEC, context=(1,) * 100, prompt_length=100), "leave no room"),
        (replace(SPEC, stops=StopRules(0)), "ask for more"),
        (replace(SPEC, context=(1, 2, 3, 4), stops=StopRules(1)), "ask for more"),
        (replace(SPEC, max_draft=-1), "not between 0 and 256"),
        (replace(SPEC, max_draft=257), "not between 0 and 256"),
        (replace(SPEC, min_draft=-1), "min_draft: -1 is not between 0 and max_draft"),
        (replace(SPEC, min_draft=5, max_draft=4), "min_draft: 5 is not between 0 and max_draft, 4"),
    ],
)
def test_sessions_that_can_not_be_served_are_refused(bad: SessionSpec, remedy: str) -> None:
    with pytest.raises(InvalidRequest, match=remedy):
        VerifierSession(bad, max_context=100, vocab_size=VOCAB)


@pytest.mark.parametrize(
    "good",
    [
        replace(SPEC, max_draft=256),
        replace(SPEC, max_draft=0),
        replace(SPEC, context=(1,) * 99, prompt_length=99),
        replace(SPEC, stops=StopRules(1)),
        replace(SPEC, context=(0, VOCAB - 1), prompt_length=2),
        replace(SPEC, stops=StopRules(1_000_000)),
    ],
)
def test_sessions_at_the_limits_are_served_to_their_end(good: SessionSpec) -> None:
    session = VerifierSession(good, max_context=100, vocab_size=VOCAB)
    assert len(finish(session, [])) == min(good.stops.max_tokens, 100 - good.prompt_length)
