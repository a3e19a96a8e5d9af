"""A session's place in one pool: which member serves it, and whom to leave alone for a while after a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from coordinator.pools import CommandT, EventT, InfoT, Member, Pool
from paceline.core.errors import PacelineError, from_code
from paceline.core.ports import Clock
from paceline.core.types import Refused
from paceline.speculation.routing import Candidate, pick

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
SHORTEST_WAIT_S = 0.001
"""Timers fire a hair early or late: less than this is not waited for again and again."""
MOST_DOUBLINGS = 10
"""Of the pause: after that it is the longest one for good."""


class Place(Generic[InfoT, CommandT, EventT]):
    """Where a session is served, if anywhere."""

    def __init__(
        self,
        session: str,
        pool: Pool[InfoT, CommandT, EventT],
        clock: Clock,
        *,
        on_event: Callable[[EventT], None],
        on_gone: Callable[[PacelineError, bool], None],
    ) -> None:
        self.member: Member[InfoT, CommandT, EventT] | None = None
        self._session = session
        self._pool = pool
        self._clock = clock
        self._on_event = on_event
        self._on_gone = on_gone
        self._not_before: dict[str, float] = {}
        self._num_refusals = 0

    def take(self, suits: Callable[[InfoT], bool]) -> Member[InfoT, CommandT, EventT] | None:
        """Attach to the suitable member with the fewest sessions; None when there is none now."""
        members = {one.address: one for one in self._pool.healthy() if one.info is not None and suits(one.info)}
        waits = self._not_before
        candidates = [Candidate(name, one.num_sessions, waits.get(name, 0.0)) for name, one in members.items()]
        chosen = pick(candidates, self._clock.monotonic())
        if chosen is None:
            return None
        self.member = members[chosen.address]
        self.member.attach(self._session, self)
        return self.member

    @property
    def name(self) -> str:
        """Of the member, as it calls itself; empty without one."""
        return self.member.info.name if self.member is not None and self.member.info is not None else ""

    @property
    def info(self) -> InfoT | None:
        """What serves the session; None while nothing does."""
        return None if self.member is None else self.member.info

    def send(self, command: CommandT) -> None:
        """To the member, if there is one."""
        if self.member is not None:
            self.member.send(command)

    def leave(self, farewell: CommandT) -> None:
        """Say ``farewell`` and detach."""
        if self.member is not None:
            self.member.send(farewell)
            self.member.detach(self._session)
            self.member = None

    def shun(self) -> None:
        """Detach from the member, which has ended the session; leave it alone, twice as long after every refusal."""
        if self.member is not None:
            pause = min(FIRST_PAUSE_S * 2 ** min(self._num_refusals, MOST_DOUBLINGS), LONGEST_PAUSE_S)
            self._not_before[self.member.address] = self._clock.monotonic() + pause
            self._num_refusals += 1
            self.member.detach(self._session)
            self.member = None

    @property
    def retry_in_s(self) -> float | None:
        """Until the first shunned member may be asked again; None when nobody is shunned."""
        now = self._clock.monotonic()
        waits = [max(until - now, SHORTEST_WAIT_S) for until in self._not_before.values() if until > now]
        return min(waits, default=None)

    def on_event(self, event: EventT) -> None:
        """From the pool."""
        if isinstance(event, Refused):
            self.shun()
            self._on_gone(from_code(event.code, event.message), event.retryable)
        else:
            self._on_event(event)

    def on_lost(self, error: PacelineError) -> None:
        """From the pool, which has detached us."""
        self.member = None
        self._on_gone(error, True)
