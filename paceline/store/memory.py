"""The store of a single process: the same rules as the Lua scripts, gone with the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.core.errors import Cancelled, Conflict, Diverged, Fenced, Gap, InvalidRequest, NotFound
from paceline.core.ports import NewSession, SessionRecord
from paceline.core.types import FinishReason, Tokens
from paceline.store.keys import STATES, TERMINAL_TTL_S, keys


@dataclass(slots=True)
class _Entry:
    new: NewSession
    expires: float
    state: str = "A"
    epoch: int = 1
    reason: str = ""
    tokens: list[int] = field(default_factory=list)

    def record(self) -> SessionRecord:
        return SessionRecord(
            self.new.session,
            self.state,
            self.epoch,
            tuple(self.tokens),
            self.new.max_tokens,
            self.new.fingerprint,
            self.reason,
        )


class MemoryStore:
    """``core.ports.SessionStore`` in a dictionary; expired sessions go with the next call."""

    address = "memory:"

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._entries: dict[str, _Entry] = {}

    async def create(self, new: NewSession) -> SessionRecord:
        """See the port."""
        keys(new.session)
        self._expire()
        entry = self._entries.setdefault(new.session, _Entry(new, self._now() + new.ttl_s))
        if entry.new.fingerprint != new.fingerprint:
            raise conflict(new.session)
        return entry.record()

    async def commit(
        self, session: str, epoch: int, nonce: str, *, base: int, tokens: Tokens, finish: FinishReason | None
    ) -> int:
        """See the port."""
        entry = self._entry(session)
        known, end = len(entry.tokens), base + len(tokens)
        if tuple(entry.tokens[base:end]) != tokens[: max(0, known - base)]:
            raise diverged(session)
        if end <= known and (finish is None or entry.state != "A"):
            return known
        if entry.state != "A":
            raise ended(session, entry.state)
        if (epoch, nonce) != (entry.epoch, entry.new.nonce):
            raise fenced(session)
        if base > known:
            raise gap(session, base, known)
        if end > entry.new.max_tokens:
            raise too_long(session, end, entry.new.max_tokens)
        entry.tokens += tokens[known - base :]
        entry.state = STATES[finish] or "A"
        entry.expires = self._now() + (TERMINAL_TTL_S if finish else entry.new.ttl_s)
        return len(entry.tokens)

    async def cancel(self, session: str, reason: str) -> SessionRecord:
        """See the port."""
        entry = self._entry(session)
        if entry.state == "A":
            entry.state, entry.reason, entry.epoch = "C", reason, entry.epoch + 1
            entry.expires = self._now() + TERMINAL_TTL_S
        return entry.record()

    async def read(self, session: str) -> SessionRecord:
        """See the port."""
        return self._entry(session).record()

    async def close(self) -> None:
        """Nothing to release."""

    def _entry(self, session: str) -> _Entry:
        keys(session)
        self._expire()
        if session not in self._entries:
            raise missing(session)
        return self._entries[session]

    def _expire(self) -> None:
        now = self._now()
        for session in [one for one, entry in self._entries.items() if entry.expires < now]:
            del self._entries[session]


def conflict(session: str) -> Conflict:
    """Another request has this id."""
    return Conflict(f"Session {session} belongs to another request; use a new id.")


def missing(session: str) -> NotFound:
    """Never created, or expired."""
    return NotFound(f"The store has no session {session}; it never existed or has expired.")


def diverged(session: str) -> Diverged:
    """An alarm."""
    return Diverged(f"Session {session}: tokens differ from those committed before; nothing was overwritten.")


def ended(session: str, state: str) -> Cancelled | Fenced:
    """The session takes no more tokens."""
    if state == "C":
        return Cancelled(f"Session {session} was cancelled.")
    return Fenced(f"Session {session} has ended already (state {state}).")


def fenced(session: str) -> Fenced:
    """Somebody else owns it."""
    return Fenced(f"Session {session} is owned by another coordinator now.")


def gap(session: str, base: int, known: int) -> Gap:
    """Tokens are missing."""
    return Gap(f"Session {session}: tokens {known} to {base} are missing in the store; send from {known} on.")


def too_long(session: str, end: int, limit: int) -> InvalidRequest:
    """More than was asked for at creation."""
    return InvalidRequest(f"Session {session}: {end} tokens are more than its max_tokens of {limit}.")
