"""Between a session and its client."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.outlet import Outlet
from paceline.core.errors import Unavailable
from paceline.core.requests import Chunk, Finished, SpeculativeMetrics, Started, Usage
from paceline.core.types import FinishReason

STARTED = Started("r", "s", 3, 1, "n")
FINISHED = Finished(FinishReason.STOP, Usage(3, 2), SpeculativeMetrics(), 0.1, 0.2)


async def test_what_waits_together_is_read_together_and_in_order() -> None:
    outlet = Outlet()
    outlet.start(STARTED)
    outlet.put((5, 6), "ab")
    outlet.put((7,), "c")
    outlet.end(FINISHED)
    assert [await outlet.take() for _ in range(3)] == [STARTED, Chunk(0, (5, 6, 7), "abc"), FINISHED]


async def test_each_index_is_read_once() -> None:
    outlet = Outlet()
    outlet.put((5, 6), "")
    assert await outlet.take() == Chunk(0, (5, 6), "")
    assert outlet.num_read == 2
    outlet.put((7,), "x")
    assert await outlet.take() == Chunk(2, (7,), "x")
    assert outlet.num_read == 3


async def test_text_may_come_without_tokens() -> None:
    outlet = Outlet()
    outlet.put((), "tail")
    assert await outlet.take() == Chunk(0, (), "tail")


async def test_the_reader_waits_for_the_writer() -> None:
    outlet = Outlet()
    outlet.start(STARTED)
    await outlet.take()
    reading = asyncio.ensure_future(outlet.take())
    await asyncio.sleep(0)
    outlet.put((), "")
    await asyncio.sleep(0)
    assert not reading.done()
    outlet.put((5,), "a")
    assert await reading == Chunk(0, (5,), "a")


async def test_an_error_comes_after_all_that_is_final() -> None:
    outlet = Outlet()
    outlet.put((5,), "a")
    outlet.end(Unavailable("gone"))
    assert await outlet.take() == Chunk(0, (5,), "a")
    for _ in range(2):
        with pytest.raises(Unavailable, match="gone"):
            await outlet.take()


async def test_the_first_end_counts() -> None:
    outlet = Outlet()
    outlet.end(FINISHED)
    outlet.end(Unavailable("late"))
    assert await outlet.take() == FINISHED
