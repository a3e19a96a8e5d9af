"""Both ends of a stream by hand: a member whose every word is chosen, and a peer that tells a member what it likes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar, cast

from paceline.core.errors import PacelineError
from paceline.core.ports import Runtime
from paceline.core.types import (
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    Drain,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.wire.exchange import exchange
from paceline.wire.outbox import Outbox

InfoT = TypeVar("InfoT")
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")
KindT = TypeVar("KindT")


class Ear:
    """What was heard and not yet asked for, in order."""

    def __init__(self) -> None:
        self._heard: deque[object] = deque()
        self._news = asyncio.Event()

    def put(self, message: object) -> None:
        """Something was said."""
        self._heard.append(message)
        self._news.set()

    async def hear(self, kind: type[KindT]) -> KindT:
        """The next message of this kind; those before it are passed over. An error that was heard is raised."""
        while True:
            while self._heard:
                message = self._heard.popleft()
                if isinstance(message, kind):
                    return message
                if isinstance(message, PacelineError):
                    raise message
            self._news.clear()
            await self._news.wait()


class Puppet(Generic[InfoT, CommandT, EventT]):
    """A runtime that does nothing by itself, for all its peers at once."""

    num_sessions = 0

    def __init__(self, info: InfoT) -> None:
        self.info = info
        self._ear = Ear()
        self._outboxes: set[Outbox[EventT]] = set()

    @property
    def num_peers(self) -> int:
        """Streams that are open."""
        return len(self._outboxes)

    async def attach(self, commands: AsyncIterator[Sequence[CommandT]]) -> AsyncGenerator[Sequence[EventT]]:
        """See the port."""
        outbox: Outbox[EventT] = Outbox()
        self._outboxes.add(outbox)
        try:
            async with aclosing(exchange(commands, self._ear.put, outbox)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._outboxes.discard(outbox)

    def say(self, *events: EventT) -> None:
        """To every peer."""
        for outbox in self._outboxes:
            for event in events:
                outbox.put(event)

    async def hear(self, kind: type[KindT]) -> KindT:
        """The next command of this kind, whoever said it; those before it are passed over."""
        return await self._ear.hear(kind)

    def drain(self, reason: str) -> None:
        """Take no new sessions, it says."""
        self.say(cast("EventT", Drain(reason)))

    async def run(self) -> None:
        """For ever."""
        await asyncio.get_running_loop().create_future()


class Peer(Generic[CommandT, EventT]):
    """A coordinator's end of a stream to a runtime, from its making until ``leave``."""

    def __init__(self, runtime: Runtime[CommandT, EventT]) -> None:
        self._ear = Ear()
        self._outbox: Outbox[CommandT] = Outbox()
        self._reading = asyncio.create_task(self._read(runtime), name="peer")

    async def _read(self, runtime: Runtime[CommandT, EventT]) -> None:
        try:
            async for batch in runtime.attach(self._outbox.batches()):
                for event in batch:
                    self._ear.put(event)
        except PacelineError as error:
            self._ear.put(error)

    def say(self, *commands: CommandT) -> None:
        """What is said without a pause travels together."""
        for command in commands:
            self._outbox.put(command)

    async def hear(self, kind: type[KindT]) -> KindT:
        """The next event of this kind; those before it are passed over."""
        return await self._ear.hear(kind)

    async def leave(self) -> None:
        """End the stream in good order."""
        self._outbox.close()
        await asyncio.wait((self._reading,))

    async def vanish(self) -> None:
        """Be cut off, as when a connection breaks."""
        self._reading.cancel()
        await asyncio.wait((self._reading,))


VerifierPuppet = Puppet[VerifierInfo, VerifierCommand, VerifierEvent]
DrafterPuppet = Puppet[DrafterInfo, DrafterCommand, DrafterEvent]
VerifierPeer = Peer[VerifierCommand, VerifierEvent]
DrafterPeer = Peer[DrafterCommand, DrafterEvent]
