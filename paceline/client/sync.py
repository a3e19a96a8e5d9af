"""The same client for code without an event loop: wraps the asyncio one, call by call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Self

from paceline.client import aio
from paceline.client.aio import Completion
from paceline.core.requests import CoordinatorInfo, GenerateEvent, GenerateRequest


class Client:
    """One connection; use it from one thread."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(_connect(address))
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection."""
        self._is_closed = True
        self._runner.run(self._client.close())
        self._runner.close()

    def generate(self, request: GenerateRequest) -> Iterator[GenerateEvent]:
        """Started, any number of Chunks, Finished."""
        events = self._client.generate(request)
        try:
            while (event := self._runner.run(_next(events))) is not None:
                yield event
        finally:
            if not self._is_closed:
                self._runner.run(events.aclose())

    def complete(self, request: GenerateRequest) -> Completion:
        """The whole answer at once."""
        return self._runner.run(self._client.complete(request))

    def cancel(self, request_id: str) -> bool:
        """False when it had already ended."""
        return self._runner.run(self._client.cancel(request_id))

    def describe(self) -> CoordinatorInfo:
        """Pools, store and limits."""
        return self._runner.run(self._client.describe())


async def _connect(address: str) -> aio.Client:
    """The channel belongs to the loop in which it is made."""
    return aio.Client(address)


async def _next(events: AsyncGenerator[GenerateEvent]) -> GenerateEvent | None:
    return await anext(events, None)
