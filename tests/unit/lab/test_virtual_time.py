"""Time that jumps: exact, at once, and only when nothing else is to be done."""

from __future__ import annotations

import asyncio
import time

import pytest

from paceline.lab.virtual_time import run


def test_hours_pass_at_once_and_exactly() -> None:
    async def work() -> list[float]:
        loop, times = asyncio.get_running_loop(), []

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            times.append(loop.time())

        await asyncio.gather(wait(7200.0), wait(0.25), wait(3600.0))
        return times

    began = time.monotonic()
    assert run(work()) == [0.25, 3600.0, 7200.0]
    assert time.monotonic() - began < 60.0


def test_what_is_ready_comes_before_any_timer() -> None:
    async def work() -> float:
        for _ in range(100):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run(work()) == 0.0


def test_a_timeout_is_one_of_virtual_time() -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(work()) == 60.0
