"""Time of the event loop: real in an ordinary loop, virtual in one that skips its waits, such as looptime's."""

from __future__ import annotations

import asyncio


class LoopClock:
    """``core.ports.Clock`` for code that runs inside one event loop."""

    def __init__(self, started_ns: int = 0) -> None:
        self._started_ns = started_ns

    def monotonic(self) -> float:
        """Seconds of the loop."""
        return asyncio.get_running_loop().time()

    def time_ns(self) -> int:
        """The loop's time after ``started_ns``."""
        return self._started_ns + round(self.monotonic() * 1e9)

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of the loop."""
        await asyncio.sleep(seconds)
