"""A verifier's session against a target that is a simple function of the context."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import (
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


def finish(session: VerifierSession, drafts: list[Draft], max_rows: int = 99) -> tuple[int, ...]:
    committed, out = session.spec.context, ()
    while session.finish is None:
        if drafts:
            session.add(replace(drafts.pop(0), session="s"))
        commit = session.apply(outcome(session.rows(max_rows, 4), committed), StepTimings())
        if commit is not None:
            assert commit.start == len(committed)
            assert commit.accepted <= commit.drafted
            committed, out = committed + commit.token_ids, out + commit.token_ids
    return out


drafts = st.lists(
    st.builds(
        Draft,
        st.just("s"),
        st.integers(0, 24),
        st.lists(st.integers(0, VOCAB - 1), max_size=8).map(tuple),
    ),
    max_size=12,
)


@given(drafts, st.integers(1, 6), st.sets(st.integers(0, VOCAB - 1), max_size=2), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_the_output_never_depends_on_drafts_or_chunks(
    given_drafts: list[Draft], max_rows: int, stops: set[int], max_tokens: int
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


def test_a_session_that_wants_no_drafts_ignores_them() -> None:
    session = VerifierSession(replace(SPEC, max_draft=0), max_context=100, vocab_size=VOCAB)
    assert session.add(Draft("s", 3, (1, 2))) == 0
    assert session.rows(99, 4).num_draft == 0


@pytest.mark.parametrize(
    "bad",
    [
        replace(SPEC, context=()),
        replace(SPEC, prompt_length=0),
        replace(SPEC, prompt_length=4),
        replace(SPEC, context=(1, 2, VOCAB)),
        replace(SPEC, context=tuple([1] * 100)),
        replace(SPEC, stops=StopRules(0)),
        replace(SPEC, max_draft=-1),
        replace(SPEC, context=(1, 2, 3, 4), stops=StopRules(1)),
    ],
)
def test_sessions_that_can_not_be_served_are_refused(bad: SessionSpec) -> None:
    with pytest.raises(InvalidRequest):
        VerifierSession(bad, max_context=100, vocab_size=VOCAB)
