"""The real clock; simulation brings another one."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """``core.ports.Clock`` over the operating system."""

    def monotonic(self) -> float:
        """Seconds, never going back."""
        return time.monotonic()

    def time_ns(self) -> int:
        """Unix time in nanoseconds."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        await asyncio.sleep(seconds)
