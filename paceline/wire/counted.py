"""A runtime whose every batch goes through the wire's own encoding and is counted on the way, without a network."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from paceline.core.ports import Runtime
from paceline.wire import frames
from paceline.wire.names import Names

InfoT = TypeVar("InfoT")
InfoOut = TypeVar("InfoOut", covariant=True)
CommandT = TypeVar("CommandT")
CommandIn = TypeVar("CommandIn", contravariant=True)
EventT = TypeVar("EventT")
EventOut = TypeVar("EventOut", covariant=True)
MessageT = TypeVar("MessageT", bound=Message)


class Served(Runtime[CommandIn, EventOut], Protocol[InfoOut, CommandIn, EventOut]):
    """A runtime that says what it is."""

    @property
    def info(self) -> InfoOut:
        """What is served."""

    @property
    def num_sessions(self) -> int:
        """Sessions that are open or about to be."""

    async def run(self) -> None:
        """Serve for ever."""

    def drain(self, reason: str) -> None:
        """Take no new sessions from now on."""


@dataclass(slots=True)
class Traffic:
    """Bytes of the messages of one way; gRPC adds some 14 to each that travels alone."""

    num_bytes: int = 0
    num_messages: int = 0

    def through(self, message: MessageT) -> MessageT:
        """As it arrives at the other end."""
        data = message.SerializeToString()
        self.num_bytes += len(data)
        self.num_messages += 1
        return type(message).FromString(data)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a service says things: to and from messages, commands first."""

    ask: Callable[..., Any]
    hear: Callable[..., Any]
    answer: Callable[..., Any]
    read: Callable[..., Any]


VERIFY = Encoding(
    frames.verify_request_to_pb,
    frames.verify_request_from_pb,
    frames.verify_response_to_pb,
    frames.verify_response_from_pb,
)
DRAFT = Encoding(
    frames.draft_request_to_pb,
    frames.draft_request_from_pb,
    frames.draft_response_to_pb,
    frames.draft_response_from_pb,
)


class Counted(Generic[InfoT, CommandT, EventT]):
    """``Served`` over another one; ``asked`` is the traffic towards it, ``answered`` that from it."""

    def __init__(
        self, runtime: Served[InfoT, CommandT, EventT], encoding: Encoding, asked: Traffic, answered: Traffic
    ) -> None:
        self._runtime = runtime
        self._encoding = encoding
        self._asked = asked
        self._answered = answered

    @property
    def info(self) -> InfoT:
        """Its."""
        return self._runtime.info

    @property
    def num_sessions(self) -> int:
        """Its."""
        return self._runtime.num_sessions

    async def run(self) -> None:
        """As it does."""
        await self._runtime.run()

    def drain(self, reason: str) -> None:
        """As it does."""
        self._runtime.drain(reason)

    async def attach(self, commands: AsyncIterator[Sequence[CommandT]]) -> AsyncGenerator[Sequence[EventT]]:
        """A stream, both of whose ends are here."""
        ours, theirs, encoding = Names(), Names(), self._encoding

        async def heard() -> AsyncIterator[Sequence[CommandT]]:
            async for batch in commands:
                yield encoding.hear(self._asked.through(encoding.ask(batch, ours)), theirs)

        batches = self._runtime.attach(heard())
        try:
            async for batch in batches:
                yield encoding.read(self._answered.through(encoding.answer(batch, theirs)), ours)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
