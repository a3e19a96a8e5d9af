"""``core.ports.Link`` over a longer way: the delay, jitter, bandwidth and losses of an emulated network.

It shapes messages, not packets: what a stream takes together travels together, in order, and the clock of the process
is the clock of the network, so that virtual time works as real time does. Real timers are late by up to a millisecond.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from paceline.config.links import LinkProfile
from paceline.core.errors import Unavailable
from paceline.core.ports import Clock, DrafterLink, Link, VerifierLink
from paceline.wire import frames
from paceline.wire.outbox import Outbox

InfoT = TypeVar("InfoT")
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")
ThingT = TypeVar("ThingT")

IN_FLIGHT = 1024
"""Batches on their way in one direction at most; more wait where they were made, and are coalesced there."""


class _Way(Generic[ThingT]):
    """One direction: what is put in comes out in order, when the network would bring it."""

    def __init__(self, profile: LinkProfile, clock: Clock, chance: random.Random) -> None:
        self._profile = profile
        self._clock = clock
        self._chance = chance
        self._queue: asyncio.Queue[tuple[float, ThingT]] = asyncio.Queue(IN_FLIGHT)
        self._free_s = 0.0
        """When the line has sent all that was put in."""
        self._last_s = 0.0

    async def put(self, thing: ThingT, num_bytes: int) -> None:
        """On its way; waits while too much is."""
        profile, now = self._profile, self._clock.monotonic()
        sending_s = num_bytes / profile.bytes_per_s if profile.bytes_per_s else 0.0
        self._free_s = max(now, self._free_s) + sending_s
        way_s = profile.rtt_s / 2 * (1.0 + profile.jitter * self._chance.uniform(-1.0, 1.0))
        self._last_s = max(self._last_s, self._free_s + way_s)
        await self._queue.put((self._last_s, thing))

    async def take(self) -> ThingT:
        """The next thing, when it is there."""
        due, thing = await self._queue.get()
        rest = due - self._clock.monotonic()
        if rest > 0:
            await self._clock.sleep(rest)
        return thing


class ShapedLink(Generic[InfoT, CommandT, EventT]):
    """Another link, as it would be over such a network; ``sizes`` say how many bytes commands and events take."""

    def __init__(
        self,
        inner: Link[InfoT, CommandT, EventT],
        profile: LinkProfile,
        clock: Clock,
        sizes: tuple[Callable[[Sequence[CommandT]], int], Callable[[Sequence[EventT]], int]],
        *,
        merge_commits: bool = False,
    ) -> None:
        chance = random.Random(f"{inner.address} {profile}")  # noqa: S311 - the same in every run
        self._inner = inner
        self._profile = profile
        self._clock = clock
        self._chance = chance
        self._sizes = sizes
        self._outbox: Outbox[CommandT] = Outbox(merge_commits=merge_commits)
        self._there: _Way[Sequence[CommandT]] = _Way(profile, clock, chance)
        self._back: _Way[Sequence[EventT] | Exception | None] = _Way(profile, clock, chance)

    @property
    def address(self) -> str:
        """Of the peer."""
        return self._inner.address

    async def describe(self) -> InfoT:
        """What is served, a round trip later."""
        info = await self._inner.describe()
        await self._clock.sleep(self._profile.rtt_s)
        return info

    def send(self, command: CommandT) -> None:
        """Queue without waiting."""
        self._outbox.put(command)

    async def events(self) -> AsyncIterator[Sequence[EventT]]:
        """Batches as they arrive; raises ``Unavailable`` when the peer, or the emulated connection, is lost."""
        parts = (self._depart(), self._arrive(), self._read())
        tasks = [asyncio.create_task(self._report(part), name=f"link to {self.address}") for part in parts]
        losing = asyncio.create_task(self._be_lost(), name=f"link to {self.address}")
        try:
            while (batch := await self._next(losing)) is not None:
                yield batch
        finally:
            for task in (*tasks, losing):
                task.cancel()
            await asyncio.wait((*tasks, losing))

    async def _next(self, losing: asyncio.Task[None]) -> Sequence[EventT] | None:
        """None at the end of the stream."""
        taking = asyncio.create_task(self._back.take())
        try:
            await asyncio.wait((taking, losing), return_when=asyncio.FIRST_COMPLETED)
            if losing.done():
                raise Unavailable(f"Can't reach {self.address}: the emulated connection was lost.")
            batch = taking.result()
        finally:
            taking.cancel()
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def _be_lost(self) -> None:
        """Return when the connection is."""
        if not self._profile.lost_every_s:
            await asyncio.get_running_loop().create_future()
        await self._clock.sleep(self._chance.expovariate(1.0 / self._profile.lost_every_s))

    async def _depart(self) -> None:
        async for batch in self._outbox.batches():
            await self._there.put(batch, self._weigh(self._sizes[0], batch))

    async def _arrive(self) -> None:
        while True:
            for command in await self._there.take():
                self._inner.send(command)

    async def _read(self) -> None:
        async for batch in self._inner.events():
            await self._back.put(batch, self._weigh(self._sizes[1], batch))
        await self._back.put(None, 0)

    async def _report(self, part: Awaitable[None]) -> None:
        """Whatever ends a stream travels as its events do, and is raised where they are read."""
        try:
            await part
        except Exception as error:
            await self._back.put(error, 0)

    def _weigh(self, size: Callable[[Sequence[ThingT]], int], batch: Sequence[ThingT]) -> int:
        """Nobody asks for bytes where they cost nothing."""
        return size(batch) if self._profile.bytes_per_s else 0

    async def close(self) -> None:
        """End the stream; what is on its way is lost."""
        self._outbox.close()
        await self._inner.close()


def shape_verifier_links(
    connect: Callable[[str], VerifierLink], profile: LinkProfile, clock: Clock
) -> Callable[[str], VerifierLink]:
    """Links as ``connect`` makes them, over such a network."""
    if not profile:
        return connect
    sizes = (
        lambda batch: frames.verify_request_to_pb(batch).ByteSize(),
        lambda batch: frames.verify_response_to_pb(batch).ByteSize(),
    )
    return lambda address: ShapedLink(connect(address), profile, clock, sizes)


def shape_drafter_links(
    connect: Callable[[str], DrafterLink], profile: LinkProfile, clock: Clock
) -> Callable[[str], DrafterLink]:
    """As ``shape_verifier_links``."""
    if not profile:
        return connect
    sizes = (
        lambda batch: frames.draft_request_to_pb(batch).ByteSize(),
        lambda batch: frames.draft_response_to_pb(batch).ByteSize(),
    )
    return lambda address: ShapedLink(connect(address), profile, clock, sizes, merge_commits=True)
