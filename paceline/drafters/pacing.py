"""Lets the time go by that a drafter says its calls take, on the injected clock: in virtual time as in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from paceline.core.ports import Clock, Drafter

Params = ParamSpec("Params")
Result = TypeVar("Result")


@runtime_checkable
class TakesTime(Protocol):
    """A drafter that computes at once and says how long it should have taken."""

    def take_owed_s(self) -> float:
        """Time that the calls since the last question should have taken."""


def paced_worker(drafter: Drafter | None, clock: Clock) -> Executor | None:
    """Where such a drafter computes; None for all others."""
    return PacedWorker(drafter, clock) if isinstance(drafter, TakesTime) else None


class PacedWorker(Executor):
    """Calls a function when it is handed in, inside the event loop, and hands its result over when that is due."""

    def __init__(self, drafter: TakesTime, clock: Clock) -> None:
        self._drafter = drafter
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, fn: Callable[Params, Result], /, *args: Params.args, **kwargs: Params.kwargs) -> Future[Result]:
        """One call after the other, as its callers do."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            future.set_exception(error)
            return future
        owed = self._drafter.take_owed_s()
        if owed <= 0.0:
            future.set_result(result)
            return future
        task = asyncio.get_running_loop().create_task(self._deliver(future, result, owed), name="paced drafter")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _deliver(self, future: Future[Result], result: Result, owed_s: float) -> None:
        await self._clock.sleep(owed_s)
        future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """What is not due yet comes to nobody any more."""
        for task in self._tasks:
            task.cancel()
