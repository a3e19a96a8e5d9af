"""Batches of events, as they travel in one gRPC message; a table says which field of the oneof holds which noun.

Both ends of a stream give their ``Names`` of it; without any, sessions are called by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterCommand,
    DrafterEvent,
    Drain,
    KvFrame,
    Refused,
    SessionSpec,
    Tap,
    VerifierCommand,
    VerifierEvent,
)
from paceline.v1 import drafter_pb2, verifier_pb2
from paceline.wire import codec, drafts
from paceline.wire.names import Names

EventT = TypeVar("EventT")

_TO_PB: dict[type, tuple[str, Callable[[Any], Any]]] = {
    SessionSpec: ("open", codec.session_spec_to_pb),
    Draft: ("draft", drafts.draft_to_pb),
    Commit: ("commit", codec.commit_to_pb),
    Close: ("close", codec.close_to_pb),
    Credit: ("credit", codec.credit_to_pb),
    KvFrame: ("kv", codec.kv_frame_to_pb),
    Tap: ("tap", codec.tap_to_pb),
    Refused: ("refused", codec.refused_to_pb),
    Drain: ("drain", codec.drain_to_pb),
}
_FROM_PB: dict[str, Callable[[Any], Any]] = {
    "open": codec.session_spec_from_pb,
    "draft": drafts.draft_from_pb,
    "commit": codec.commit_from_pb,
    "close": codec.close_from_pb,
    "credit": codec.credit_from_pb,
    "kv": codec.kv_frame_from_pb,
    "tap": codec.tap_from_pb,
    "refused": codec.refused_from_pb,
    "drain": codec.drain_from_pb,
}


_LAST = ("close", "refused")
"""Kinds behind which nothing comes for a session."""


def _pack(message: type[EventT], events: Iterable[object], names: Names | None) -> list[EventT]:
    packed = []
    for event in events:
        kind, to_pb = _TO_PB[type(event)]
        part = to_pb(event)
        if names is not None and kind != "drain":
            session = part.session_id
            names.open(part) if kind == "open" else names.shorten(part)
            if kind in _LAST:
                names.forget(session)
        packed.append(message(**{kind: part}))
    return packed


def _unpack(messages: Iterable[Any], names: Names | None) -> list[object]:
    events = []
    for message in messages:
        kind = message.WhichOneof("kind")
        if kind is None:
            raise InvalidRequest("kind: a message holds no event that this version knows; update this side.")
        part = getattr(message, kind)
        if names is not None and kind != "drain":
            names.learn(part) if kind == "open" else names.restore(part)
            if kind in _LAST:
                names.forget(part.session_id)
        events.append(_FROM_PB[kind](part))
    return events


def verify_request_to_pb(commands: Sequence[VerifierCommand], names: Names | None = None) -> verifier_pb2.VerifyRequest:
    """Towards a verifier."""
    return verifier_pb2.VerifyRequest(commands=_pack(verifier_pb2.VerifierCommand, commands, names))


def verify_request_from_pb(message: verifier_pb2.VerifyRequest, names: Names | None = None) -> list[VerifierCommand]:
    """Raises ``InvalidRequest`` naming the field."""
    return cast("list[VerifierCommand]", _unpack(message.commands, names))


def verify_response_to_pb(events: Sequence[VerifierEvent], names: Names | None = None) -> verifier_pb2.VerifyResponse:
    """From a verifier."""
    return verifier_pb2.VerifyResponse(events=_pack(verifier_pb2.VerifierEvent, events, names))


def verify_response_from_pb(message: verifier_pb2.VerifyResponse, names: Names | None = None) -> list[VerifierEvent]:
    """Raises ``InvalidRequest`` naming the field."""
    return cast("list[VerifierEvent]", _unpack(message.events, names))


def draft_request_to_pb(commands: Sequence[DrafterCommand], names: Names | None = None) -> drafter_pb2.DraftRequest:
    """Towards a drafter."""
    return drafter_pb2.DraftRequest(commands=_pack(drafter_pb2.DrafterCommand, commands, names))


def draft_request_from_pb(message: drafter_pb2.DraftRequest, names: Names | None = None) -> list[DrafterCommand]:
    """Raises ``InvalidRequest`` naming the field."""
    return cast("list[DrafterCommand]", _unpack(message.commands, names))


def draft_response_to_pb(events: Sequence[DrafterEvent], names: Names | None = None) -> drafter_pb2.DraftResponse:
    """From a drafter."""
    return drafter_pb2.DraftResponse(events=_pack(drafter_pb2.DrafterEvent, events, names))


def draft_response_from_pb(message: drafter_pb2.DraftResponse, names: Names | None = None) -> list[DrafterEvent]:
    """Raises ``InvalidRequest`` naming the field."""
    return cast("list[DrafterEvent]", _unpack(message.events, names))
