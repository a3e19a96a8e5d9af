"""Supervision: work without an end runs beside the block, and its failure ends the block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run them all; the failure of one ends the others."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work, name="work")


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None], stop: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Event]:
    """Run ``work`` for the length of the block; the event is set when ``stop`` returns."""
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work, name="work"), group.create_task(stop, name="stop")]
        tasks[1].add_done_callback(lambda _: stopped.set())
        try:
            yield stopped
        finally:
            for task in tasks:
                task.cancel()
