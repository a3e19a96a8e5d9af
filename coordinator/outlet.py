"""Between a session and its client: what is final and not yet read, merged into one chunk.

Bounded by the credit that the session gives its verifier, which moves on only as the client reads.
"""

from __future__ import annotations

import asyncio

from paceline.core.errors import PacelineError
from paceline.core.requests import Chunk, Finished, GenerateEvent, Started
from paceline.core.types import Tokens


class Outlet:
    """One writer (the session), one reader (the client's call)."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._tokens: list[int] = []
        self._text = ""
        self._start = 0
        self._last: Finished | PacelineError | None = None
        self._ready = asyncio.Event()

    def start(self, event: Started) -> None:
        """The request was accepted."""
        self._started = event
        self._ready.set()

    def put(self, token_ids: Tokens, text: str) -> None:
        """Tokens that the store has."""
        self._tokens += token_ids
        self._text += text
        self._ready.set()

    def end(self, last: Finished | PacelineError) -> None:
        """Nothing comes after this; the first end counts."""
        self._last = self._last or last
        self._ready.set()

    @property
    def num_read(self) -> int:
        """Output tokens that the client took."""
        return self._start

    async def take(self) -> GenerateEvent:
        """The next event; raises the error that ended the request."""
        while True:
            await self._ready.wait()
            if self._started is not None:
                event, self._started = self._started, None
                return event
            if self._tokens or self._text:
                return self._chunk()
            if isinstance(self._last, Finished):
                return self._last
            if self._last is not None:
                raise self._last
            self._ready.clear()

    def _chunk(self) -> Chunk:
        chunk = Chunk(self._start, tuple(self._tokens), self._text)
        self._start += len(self._tokens)
        self._tokens, self._text = [], ""
        return chunk
