"""Work without an end is supervised: it stops with its block, and its failure stops the block."""

from __future__ import annotations

import asyncio

import pytest

from paceline.core.errors import Internal
from paceline.wire.tasks import running


async def forever() -> None:
    await asyncio.Event().wait()


async def test_the_work_stops_with_the_block() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await forever()
        finally:
            stopped.set()

    async with running(work(), forever()):
        await asyncio.sleep(0)
    assert stopped.is_set()


async def test_the_event_is_set_when_somebody_asks_to_stop() -> None:
    asked = asyncio.Event()

    async def stop() -> None:
        await asked.wait()

    async with running(forever(), stop()) as event:
        await asyncio.sleep(0)
        assert not event.is_set()
        asked.set()
        await event.wait()


async def test_work_that_fails_ends_the_block_with_its_error() -> None:
    async def work() -> None:
        raise Internal("Memory is not to be trusted.")

    with pytest.raises(ExceptionGroup) as caught:
        async with running(work(), forever()) as event:
            await event.wait()
    assert [str(error) for error in caught.value.exceptions] == ["Memory is not to be trusted."]


async def test_an_error_of_the_block_stops_the_work_and_comes_out() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with running(forever(), forever()):
            raise Internal("The block itself.")
    assert [str(error) for error in caught.value.exceptions] == ["The block itself."]
    assert {task.get_name() for task in asyncio.all_tasks()} & {"work", "stop"} == set()
