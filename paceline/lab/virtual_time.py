"""An event loop whose clock jumps to the next timer when nothing else is to be done: hours pass in seconds, exactly.

Threads and sockets don't know of it: what runs in it must compute inside the loop and talk in memory.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class _SkippingSelector(selectors.SelectSelector):
    """Never waits for a timer: says how long it would have waited instead."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; without timers, real time has to bring it."""
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.skipped_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Starts at second 0."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds that were skipped so far."""
        return self._skipping.skipped_s


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As ``asyncio.run``, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
