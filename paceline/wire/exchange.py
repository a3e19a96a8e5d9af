"""The serving side of a multiplexed stream: commands in by a handler that never waits, events out by an outbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from paceline.wire.outbox import Outbox

CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")


async def exchange(
    commands: AsyncIterator[Sequence[CommandT]], handle: Callable[[CommandT], None], outbox: Outbox[EventT]
) -> AsyncGenerator[Sequence[EventT]]:
    """Batches for the peer until it ends its commands or goes; raises what reading or ``handle`` raised."""

    async def read() -> None:
        try:
            async for batch in commands:
                for command in batch:
                    handle(command)
        finally:
            outbox.close()

    reading = asyncio.create_task(read(), name="exchange")
    try:
        async with aclosing(outbox.batches()) as batches:
            async for batch in batches:
                yield batch
        await reading
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
