"""A message carries events that waited together: all of them, in order, and nothing that this side can't name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from support import nouns

from paceline.core.errors import InvalidRequest
from paceline.v1 import drafter_pb2, tokens_pb2, verifier_pb2
from paceline.wire import frames

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
