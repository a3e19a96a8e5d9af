"""The events of a request as a whole; everything that needs a coordinator is in tests/integration/services."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from paceline.client.aio import Completion, collect
from paceline.core.errors import Internal, Unavailable
from paceline.core.requests import Chunk, Finished, GenerateEvent, SpeculativeMetrics, Started, Usage
from paceline.core.types import FinishReason

STARTED = Started("r", "s", 3, 1, "n")
FINISHED = Finished(FinishReason.STOP, Usage(3, 3), SpeculativeMetrics(), 0.1, 0.2)


class Stream:
    """Events, then an error if there is one; remembers whether it was closed."""

    def __init__(self, *events: GenerateEvent, error: Exception | None = None) -> None:
        self._events = events
        self._error = error
        self.is_closed = False

    async def read(self) -> AsyncGenerator[GenerateEvent]:
        try:
            for event in self._events:
                yield event
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


async def test_chunks_add_up_to_a_completion() -> None:
    stream = Stream(STARTED, Chunk(0, (5, 6), "ab"), Chunk(2, (7,), "c"), Chunk(3, (), "tail"), FINISHED)
    assert await collect(stream.read()) == Completion(STARTED, "abctail", (5, 6, 7), FINISHED)
    assert stream.is_closed


async def test_a_completion_may_be_empty() -> None:
    assert await collect(Stream(STARTED, FINISHED).read()) == Completion(STARTED, "", (), FINISHED)


async def test_a_stream_without_an_end_is_a_defect() -> None:
    with pytest.raises(Internal, match="ended without a final event"):
        await collect(Stream(STARTED, Chunk(0, (5,), "a")).read())


async def test_errors_go_through() -> None:
    stream = Stream(STARTED, Chunk(0, (5,), "a"), error=Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await collect(stream.read())
    assert stream.is_closed
