"""A message carries events that waited together: all of them, in order, and nothing that this side can't name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from support import nouns

from paceline.core.errors import InvalidRequest
from paceline.core.types import Close, Commit, Credit, Draft, Drain, Refused, SamplingParams, SessionSpec, StopRules
from paceline.v1 import drafter_pb2, tokens_pb2, verifier_pb2
from paceline.wire import frames
from paceline.wire.names import Names

DIRECTIONS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Message], Callable[[Any], Any]]] = {
    "to a verifier": (
        nouns.spec | nouns.draft | nouns.close | nouns.credit | nouns.tap,
        frames.verify_request_to_pb,
        frames.verify_request_from_pb,
    ),
    "from a verifier": (
        nouns.commit | nouns.kv_frame | nouns.credit | nouns.refused | nouns.drain,
        frames.verify_response_to_pb,
        frames.verify_response_from_pb,
    ),
    "to a drafter": (
        nouns.spec | nouns.commit | nouns.kv_frame | nouns.close | nouns.credit,
        frames.draft_request_to_pb,
        frames.draft_request_from_pb,
    ),
    "from a drafter": (
        nouns.draft | nouns.refused | nouns.drain,
        frames.draft_response_to_pb,
        frames.draft_response_from_pb,
    ),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_batch_arrives_whole_and_in_order(direction: str, data: st.DataObject) -> None:
    event, to_pb, from_pb = DIRECTIONS[direction]
    batch = data.draw(st.lists(event, max_size=5))
    message = to_pb(batch)
    assert from_pb(type(message).FromString(message.SerializeToString())) == batch


NAMELESS: dict[str, tuple[Message, Callable[[Any], Any]]] = {
    "to a verifier": (
        verifier_pb2.VerifyRequest(commands=[verifier_pb2.VerifierCommand()]),
        frames.verify_request_from_pb,
    ),
    "from a verifier": (
        verifier_pb2.VerifyResponse(events=[verifier_pb2.VerifierEvent()]),
        frames.verify_response_from_pb,
    ),
    "to a drafter": (drafter_pb2.DraftRequest(commands=[drafter_pb2.DrafterCommand()]), frames.draft_request_from_pb),
    "from a drafter": (drafter_pb2.DraftResponse(events=[drafter_pb2.DrafterEvent()]), frames.draft_response_from_pb),
}


@pytest.mark.parametrize("direction", NAMELESS)
def test_an_event_that_this_version_does_not_know_is_refused(direction: str) -> None:
    message, from_pb = NAMELESS[direction]
    with pytest.raises(InvalidRequest, match=r"kind: .* update this side"):
        from_pb(message)


def test_one_malformed_event_refuses_its_batch_by_the_field() -> None:
    good = verifier_pb2.VerifierCommand(close=tokens_pb2.Close(session_id="s"))
    bad = verifier_pb2.VerifierCommand(draft=tokens_pb2.Draft())
    with pytest.raises(InvalidRequest, match="session_id: need 1 to 64"):
        frames.verify_request_from_pb(verifier_pb2.VerifyRequest(commands=[good, bad]))


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[bool, Any]]:
    """What a coordinator (True) and a drafter say of three sessions on one stream."""
    said = st.tuples(st.booleans(), st.sampled_from(["a" * 32, "b" * 32, "c" * 32]), st.integers(0, 4))
    spec = SessionSpec("s", (1,), 1, SamplingParams(), StopRules(9))
    turns: list[tuple[bool, Any]] = []
    for is_ours, session, kind in draw(st.lists(said, max_size=30)):
        ours = (replace(spec, session=session), Commit(session, 1, (2,)), Credit(session, 5), Close(session))
        theirs = (Draft(session, 1, (2,)), Refused(session, "X", "no", retryable=True), Drain("enough"))
        turns.append((is_ours, ours[kind % 4] if is_ours else theirs[kind % 3]))
    return turns


@given(conversations())
def test_both_ends_of_a_stream_know_whose_each_event_is_whatever_it_is_called(turns: list[tuple[bool, Any]]) -> None:
    ours, theirs = Names(), Names()
    for is_ours, event in turns:
        if is_ours:
            heard = frames.draft_request_from_pb(frames.draft_request_to_pb([event], ours), theirs)
        else:
            heard = frames.draft_response_from_pb(frames.draft_response_to_pb([event], theirs), ours)
        assert heard == [event]


def test_a_session_is_called_by_a_short_name_from_its_opening_to_its_end() -> None:
    ours, theirs = Names(), Names()
    spec = SessionSpec("f" * 32, (1,), 1, SamplingParams(), StopRules(9))
    opening = frames.draft_request_to_pb([spec, Credit(spec.session, 4)], ours)
    assert [opening.commands[0].open.session_id, opening.commands[1].credit.session_id] == [spec.session, "0"]
    frames.draft_request_from_pb(opening, theirs)
    assert frames.draft_response_to_pb([Draft(spec.session, 1, ())], theirs).events[0].draft.session_id == "0"
    closing = frames.draft_request_to_pb([Close(spec.session), replace(spec, context=(1, 2))], ours)
    assert [closing.commands[0].close.session_id, closing.commands[1].open.alias] == ["0", "1"]


def test_what_comes_for_a_name_that_is_forgotten_is_for_nobody() -> None:
    ours, theirs = Names(), Names()
    spec = SessionSpec("f" * 32, (1,), 1, SamplingParams(), StopRules(9))
    frames.draft_request_from_pb(frames.draft_request_to_pb([spec], ours), theirs)
    late = frames.draft_response_to_pb([Draft(spec.session, 1, ())], theirs)
    frames.draft_request_to_pb([Close(spec.session)], ours)
    assert frames.draft_response_from_pb(late, ours) == [Draft("0", 1, ())]


def test_a_peer_that_knows_nothing_of_names_calls_sessions_by_their_ids() -> None:
    ours = Names()
    frames.draft_request_to_pb([SessionSpec("f" * 32, (1,), 1, SamplingParams(), StopRules(9))], ours)
    answer = frames.draft_response_to_pb([Draft("f" * 32, 1, (5,))])
    assert frames.draft_response_from_pb(answer, ours) == [Draft("f" * 32, 1, (5,))]
