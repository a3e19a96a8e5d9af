"""A link in memory that can be lost at any moment, with what was on its way, as a connection to a process can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from paceline.core.errors import PacelineError, Unavailable
from paceline.wire.memory import MemoryLink

InfoT = TypeVar("InfoT")
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")


class LosableLink(Generic[InfoT, CommandT, EventT]):
    """``core.ports.Link`` over another one; without one, nobody answers."""

    def __init__(self, address: str, inner: MemoryLink[InfoT, CommandT, EventT] | None) -> None:
        self.address = address
        self._inner = inner
        self._arrived: asyncio.Queue[Sequence[EventT] | PacelineError] = asyncio.Queue()

    async def describe(self) -> InfoT:
        """What the other side serves."""
        if self._inner is None:
            raise self._lost()
        return await self._inner.describe()

    def send(self, command: CommandT) -> None:
        """Queue without waiting."""
        if self._inner is not None:
            self._inner.send(command)

    async def events(self) -> AsyncIterator[Sequence[EventT]]:
        """Batches until the link is lost or the other side ends."""
        reading = asyncio.create_task(self._read(), name=f"link to {self.address}")
        try:
            while not isinstance(batch := await self._arrived.get(), PacelineError):
                yield batch
            raise batch
        finally:
            reading.cancel()
            await asyncio.wait((reading,))

    async def _read(self) -> None:
        if self._inner is None:
            return
        try:
            async for batch in self._inner.events():
                self._arrived.put_nowait(batch)
            self._arrived.put_nowait(Unavailable(f"{self.address} ended its stream."))
        except PacelineError as error:
            self._arrived.put_nowait(error)

    def lose(self) -> None:
        """Nothing gets through any more; both sides notice."""
        self._inner = None
        while not self._arrived.empty():
            self._arrived.get_nowait()
        self._arrived.put_nowait(self._lost())

    def _lost(self) -> Unavailable:
        return Unavailable(f"Can't reach {self.address}: the connection was lost. Is it running?")

    async def close(self) -> None:
        """End the stream."""
        if self._inner is not None:
            await self._inner.close()
