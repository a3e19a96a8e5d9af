"""Waiting for what has no event of its own, such as what a peer does after a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return once ``holds``. Raises ``TimeoutError``; the time only bounds a hang, so slow machines have plenty."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
