"""Pools of verifiers and drafters: each member owns one link, and one task that connects, listens and reconnects.

A member that is up is never polled: the stream itself tells when it is lost. Handlers are called in the reading
task and must not wait; that keeps the way from a verifier's commit to the drafter free of queues.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from paceline.core.errors import Mismatch, PacelineError, Unavailable
from paceline.core.ports import Clock, Link
from paceline.core.requests import PoolMember
from paceline.core.types import DrafterInfo, Drain, VerifierInfo

_log = logging.getLogger(__name__)

InfoT = TypeVar("InfoT", bound=VerifierInfo | DrafterInfo)
CommandT = TypeVar("CommandT")
EventT = TypeVar("EventT")
EventIn = TypeVar("EventIn", contravariant=True)

FIRST_PAUSE_S = 0.05
"""Before the first attempt to reconnect; doubles up to the pool's longest pause."""
DESCRIBE_S = 5.0
"""A party that takes longer to say what it is counts as down."""


class SessionHandler(Protocol[EventIn]):
    """What a session does with its member."""

    def on_event(self, event: EventIn) -> None:
        """One event of this session; never waits."""

    def on_lost(self, error: PacelineError) -> None:
        """The member is gone, and the session is no longer attached to it."""


class Member(Generic[InfoT, CommandT, EventT]):
    """One verifier or drafter."""

    def __init__(self, address: str, pool: Pool[InfoT, CommandT, EventT]) -> None:
        self.address = address
        self.info: InfoT | None = None
        self.detail = "Not connected yet."
        self._pool = pool
        self._link: Link[InfoT, CommandT, EventT] | None = None
        self._handlers: dict[str, SessionHandler[EventT]] = {}
        self._is_draining = False
        self._stay: asyncio.Timeout | None = None

    @property
    def is_healthy(self) -> bool:
        """Connected, compatible and taking sessions."""
        return self._link is not None and not self._is_draining

    @property
    def num_sessions(self) -> int:
        """Sessions of this coordinator on it."""
        return len(self._handlers)

    def attach(self, session: str, handler: SessionHandler[EventT]) -> None:
        """Events of ``session`` go to ``handler`` from now on."""
        self._handlers[session] = handler

    def detach(self, session: str) -> None:
        """Late events of ``session`` are dropped from now on."""
        self._handlers.pop(session, None)
        self._part()

    def _part(self) -> None:
        """A member that drains waits for its last session to end, and then for us to go."""
        if self._is_draining and not self._handlers and self._stay is not None:
            self._stay.reschedule(0)
            self._stay = None

    def send(self, command: CommandT) -> None:
        """Queue without waiting; dropped when the member is down, whose sessions are told by ``on_lost``."""
        if self._link is not None:
            self._link.send(command)

    def snapshot(self) -> PoolMember:
        """For Describe."""
        return PoolMember(self.address, self.is_healthy, self.detail, self.info, self.num_sessions)

    async def run(self) -> None:
        """Connect, listen until lost, pause, again; for ever."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                if await self._serve():
                    pause = FIRST_PAUSE_S
            except (PacelineError, TimeoutError) as error:
                self.detail = str(error) or f"{self.address} does not say what it is within {DESCRIBE_S:g} s."
                _log.info("pool member down", extra={"address": self.address, "reason": self.detail})
            await self._pool.pause(pause)
            pause = min(2 * pause, self._pool.longest_pause_s)

    async def _serve(self) -> bool:
        """One connection's life; true when the member may be back at once."""
        link = self._pool.connect(self.address)
        try:
            async with asyncio.timeout(DESCRIBE_S):
                info = await link.describe()
            self.info = info
            self._pool.check(info)
            await self._listen(link)
        finally:
            await link.close()
        return not self._is_draining

    async def _listen(self, link: Link[InfoT, CommandT, EventT]) -> None:
        self._link, self._is_draining, self.detail = link, False, ""
        self._pool.changed()
        error: PacelineError = Unavailable(f"{self.address} ended its stream.")
        try:
            async with asyncio.timeout(None) as self._stay:
                async for batch in link.events():
                    self._dispatch(batch)
        except TimeoutError:
            error = Unavailable(self.detail)
        except PacelineError as lost:
            error = lost
        except asyncio.CancelledError:
            # gRPC also cancels a call of ours that it could not encode; only a wish of our owner ends this task.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = Unavailable(f"The stream to {self.address} broke on this side; see the log.")
        finally:
            self._stay = None
            self._lose(error)

    def _dispatch(self, batch: Sequence[EventT]) -> None:
        for event in batch:
            if isinstance(event, Drain):
                self._is_draining, self.detail = True, f"{self.address} is draining: {event.reason or 'no reason'}."
                self._pool.changed()
                self._part()
                continue
            handler = self._handlers.get(getattr(event, "session", ""))
            if handler is not None:
                handler.on_event(event)

    def _lose(self, error: PacelineError) -> None:
        self._link, self.detail = None, str(error)
        handlers, self._handlers = self._handlers, {}
        self._pool.changed()
        for handler in handlers.values():
            handler.on_lost(error)


class Pool(Generic[InfoT, CommandT, EventT]):
    """All verifiers, or all drafters."""

    def __init__(
        self,
        addresses: Sequence[str],
        connect: Callable[[str], Link[InfoT, CommandT, EventT]],
        clock: Clock,
        *,
        longest_pause_s: float = 1.0,
        check: Callable[[InfoT], None] = lambda info: None,
    ) -> None:
        self.connect = connect
        self.check = check
        self.longest_pause_s = longest_pause_s
        self._clock = clock
        self._listeners: set[Callable[[], None]] = set()
        # Jitter only spreads reconnects; nothing that a client sees depends on it.
        self._random = random.Random()  # noqa: S311
        self._members: list[Member[InfoT, CommandT, EventT]] = [Member(address, self) for address in addresses]

    def __iter__(self) -> Iterator[Member[InfoT, CommandT, EventT]]:
        return iter(self._members)

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """One supervised task per member."""
        return [tasks.create_task(member.run(), name=f"pool {member.address}") for member in self._members]

    def healthy(self) -> list[Member[InfoT, CommandT, EventT]]:
        """Members that take sessions."""
        return [member for member in self._members if member.is_healthy]

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a member comes, drains or goes."""
        self._listeners.add(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """The inverse of ``subscribe``."""
        self._listeners.discard(listener)

    def changed(self) -> None:
        """A member's state changed."""
        for listener in tuple(self._listeners):
            listener()

    async def pause(self, seconds: float) -> None:
        """Sleep between half and all of ``seconds``."""
        await self._clock.sleep(seconds * (0.5 + 0.5 * self._random.random()))

    def describe(self) -> tuple[PoolMember, ...]:
        """For Describe."""
        return tuple(member.snapshot() for member in self._members)


def check_tokenizer(ours: str, info: VerifierInfo) -> None:
    """A verifier with another vocabulary than the coordinator's tokenizer would give wrong text."""
    if ours and info.tokenizer_digest and info.tokenizer_digest != ours:
        raise Mismatch(
            f"Verifier {info.name} has tokenizer {info.tokenizer_digest[:12]}, the coordinator {ours[:12]}; "
            "set the coordinator's tokenizer to the verifier's model."
        )
