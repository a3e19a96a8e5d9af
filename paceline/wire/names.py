"""What the sessions of one stream are called on it: an id has 32 characters, and most messages hold little else.

Whoever opens a session names it; both sides forget the name with the session, and all names with the stream. An event
that comes for a name that is forgotten finds no session, like any that comes too late.
"""

from __future__ import annotations

from typing import Protocol

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Named(Protocol):
    """A message about a session, or the opening of one."""

    session_id: str


class Opening(Named, Protocol):
    """Of a session."""

    alias: str


class Names:
    """Of one stream, at one end of it. Those of a stream in which nothing is opened change nothing."""

    def __init__(self) -> None:
        self._short: dict[str, str] = {}
        self._long: dict[str, str] = {}
        self._count = 0

    def open(self, message: Opening) -> None:
        """Sent: from now on it has a short name."""
        message.alias = _in_digits(self._count)
        self._count += 1
        self.learn(message)

    def learn(self, message: Opening) -> None:
        """Received: the other side has named it, or not."""
        self.forget(message.session_id)
        if message.alias:
            self._short[message.session_id] = message.alias
            self._long[message.alias] = message.session_id

    def shorten(self, message: Named) -> None:
        """Before it is sent."""
        message.session_id = self._short.get(message.session_id, message.session_id)

    def restore(self, message: Named) -> None:
        """As it came."""
        message.session_id = self._long.get(message.session_id, message.session_id)

    def forget(self, session: str) -> None:
        """It has ended; nothing where that is known."""
        self._long.pop(self._short.pop(session, ""), None)


def _in_digits(number: int) -> str:
    rest, digit = divmod(number, len(DIGITS))
    return (_in_digits(rest) if rest else "") + DIGITS[digit]
