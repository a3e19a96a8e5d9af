"""``core.ports.Link`` without a network: a runtime in the same process, as in simulation and in-process engines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Generic, TypeVar

from paceline.core.errors import Unavailable
from paceline.core.ports import Runtime
from paceline.wire.outbox import Outbox

InfoT = TypeVar("InfoT")
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")


class MemoryLink(Generic[InfoT, CommandT, EventT]):
    """To a runtime in this event loop."""

    def __init__(self, runtime: Runtime[CommandT, EventT], info: InfoT, address: str) -> None:
        self.address = address
        self._runtime = runtime
        self._info = info
        self._outbox: Outbox[CommandT] = Outbox()
        self._is_closed = False

    async def describe(self) -> InfoT:
        """What the runtime serves."""
        if self._is_closed:
            raise Unavailable(f"The link to {self.address} is closed; make a new one.")
        return self._info

    def send(self, command: CommandT) -> None:
        """Queue without waiting."""
        self._outbox.put(command)

    async def events(self) -> AsyncIterator[Sequence[EventT]]:
        """Batches until either side ends the stream; the runtime is told when the reader goes."""
        batches = self._runtime.attach(self._outbox.batches())
        try:
            async for batch in batches:
                yield batch
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    async def close(self) -> None:
        """End the stream."""
        self._is_closed = True
        self._outbox.close()
