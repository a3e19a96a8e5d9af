"""A request means what its client meant: nothing is lost on the way, neither at the client nor at an older server."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.core.errors import InvalidRequest
from paceline.core.requests import Chat, ChatMessage, GenerateRequest
from paceline.v1 import coordinator_pb2 as pb
from paceline.wire.coordinator_codec import generate_request_from_pb, generate_request_to_pb

UNKNOWN = b"\xca\x0c\x01x"
"""Field 201 with the text "x", as a newer client would send it."""


def newer(message: Any) -> None:
    """Set a field of a later version."""
    message.MergeFromString(UNKNOWN)


def test_a_request_of_this_version_passes() -> None:
    assert generate_request_from_pb(pb.GenerateRequest(text="x")) == GenerateRequest("x")


@pytest.mark.parametrize("part", ["GenerateRequest", "SamplingParams", "TraceContext", "TokenIds", "ChatMessage"])
def test_a_parameter_of_a_newer_client_is_refused_wherever_it_is(part: str) -> None:
    message = pb.GenerateRequest(text="x")
    message.sampling.logit_bias[3] = 0.5
    match part:
        case "GenerateRequest":
            newer(message)
        case "SamplingParams":
            newer(message.sampling)
        case "TraceContext":
            newer(message.trace)
        case "TokenIds":
            newer(message.tokens)
        case _:
            message.chat.messages.add(role="user", content="hi")
            newer(message.chat.messages.add(role="user", content="there"))
    received = pb.GenerateRequest.FromString(message.SerializeToString())
    with pytest.raises(InvalidRequest, match=f"^{part}: field 201 is unknown"):
        generate_request_from_pb(received)


def test_the_remaining_time_of_the_call_becomes_the_deadline() -> None:
    assert generate_request_from_pb(pb.GenerateRequest(text="x"), 2.5).deadline_s == 2.5


def test_an_unset_seed_stays_unset_and_zero_stays_zero() -> None:
    assert not generate_request_to_pb(GenerateRequest("x")).sampling.HasField("seed")
    zero = generate_request_to_pb(GenerateRequest("x", seed=0))
    assert zero.sampling.HasField("seed")
    assert generate_request_from_pb(zero).seed == 0


@pytest.mark.parametrize("prompt", ["", (), Chat(())])
def test_an_empty_input_is_still_an_input_of_its_kind(prompt: Any) -> None:
    received = generate_request_from_pb(generate_request_to_pb(GenerateRequest(prompt)))
    assert received.prompt == prompt


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", {"max_tokens": -1}),
        ("max_tokens", {"max_tokens": 2**32}),
        ("max_draft", {"max_draft": 1.5}),
        ("stop_token_ids", {"stop_token_ids": (-3,)}),
        ("request_id", {"request_id": 7}),
        ("stop", {"stop": (b"\xff",)}),
        ("token_ids", {"prompt": (5, -1)}),
        ("text", {"prompt": "half of a pair: \ud83d"}),
        ("content", {"prompt": Chat((ChatMessage("user", "\udc69"),))}),
        ("seed", {"seed": -1}),
    ],
)
def test_what_the_wire_cannot_carry_is_refused_by_name_before_it_is_sent(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        generate_request_to_pb(GenerateRequest(**{"prompt": "x", **values}))
