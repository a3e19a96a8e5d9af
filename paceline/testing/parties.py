"""A verifier or a drafter of a system in one process, which can die and come back as a process can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from paceline.core.errors import invariant
from paceline.core.ports import Clock
from paceline.core.types import (
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.testing.links import LosableLink
from paceline.wire.counted import Served
from paceline.wire.memory import MemoryLink

_log = logging.getLogger(__name__)

InfoT = TypeVar("InfoT")
InfoOut = TypeVar("InfoOut", covariant=True)
CommandT = TypeVar("CommandT")
CommandIn = TypeVar("CommandIn", contravariant=True)
EventT = TypeVar("EventT")
EventOut = TypeVar("EventOut", covariant=True)


class Party(Generic[InfoT, CommandT, EventT]):
    """``make`` makes its runtime, whenever it starts."""

    def __init__(self, address: str, make: Callable[[Clock], Served[InfoT, CommandT, EventT]], clock: Clock) -> None:
        self.address = address
        self.runtime: Served[InfoT, CommandT, EventT] | None = None
        self.failure: Exception | None = None
        """Why it died by itself; the system raises it in the end, unless a test that wanted it sets None."""
        self._make = make
        self._clock = clock
        self._links: list[LosableLink[InfoT, CommandT, EventT]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def num_sessions(self) -> int:
        """Sessions that it serves; none when it is down."""
        return 0 if self.runtime is None else self.runtime.num_sessions

    def start(self) -> None:
        """Run, knowing nothing of a former life."""
        invariant(self.runtime is None, "a party is killed before it starts again")
        self.runtime = self._make(self._clock)
        self._tasks.append(asyncio.create_task(self._live(self.runtime), name=self.address))

    async def _live(self, runtime: Served[InfoT, CommandT, EventT]) -> None:
        try:
            await runtime.run()
        except Exception as failure:
            _log.info("party died", extra={"address": self.address, "reason": repr(failure)})
            self.failure, self.runtime = failure, None

    def connect(self) -> LosableLink[InfoT, CommandT, EventT]:
        """A new link; nobody answers while the party is down."""
        runtime = self.runtime
        link = LosableLink(self.address, MemoryLink(runtime, runtime.info, self.address) if runtime else None)
        self._links.append(link)
        return link

    def cut(self) -> None:
        """Break its connections; it lives on and may be reached again."""
        for link in self._links:
            link.lose()
        self._links.clear()

    def kill(self) -> None:
        """As SIGKILL does: gone with all it knew, without a word."""
        self.cut()
        self.runtime = None
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Kill it, and wait until nothing of it runs."""
        self.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)


Verifier = Party[VerifierInfo, VerifierCommand, VerifierEvent]
Drafter = Party[DrafterInfo, DrafterCommand, DrafterEvent]
MakeVerifier = Callable[[Clock], Served[VerifierInfo, VerifierCommand, VerifierEvent]]
MakeDrafter = Callable[[Clock], Served[DrafterInfo, DrafterCommand, DrafterEvent]]
