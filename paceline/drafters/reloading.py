"""New weights for a drafter at work: loaded beside the old ones, then swapped between two computations.

By RPC or SIGHUP. Whatever goes wrong, the old weights go on and no session notices. Loading happens in the thread that
computes: compute libraries keep a team of threads per caller, and a second team would slow the first one for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Protocol

from prometheus_client import Counter

from paceline.core.errors import Conflict, Internal, Mismatch, NotFound, PacelineError
from paceline.core.ports import Drafter
from paceline.core.types import DrafterInfo, SessionSpec
from paceline.wire.server import on_hangup

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What was served before, and what is now."""

    old: DrafterInfo
    new: DrafterInfo


class Serving(Protocol):
    """Whoever has a drafter at work."""

    @property
    def drafter_info(self) -> DrafterInfo | None:
        """What guesses now; None when nothing does."""

    async def swap(self, drafter: Drafter) -> None:
        """Let ``drafter`` guess for all sessions, from between two computations on. Raises ``PacelineError``.

        All sessions go over, or none does when it refuses one: then the present drafter goes on.
        """


@dataclass(frozen=True, slots=True)
class Successor:
    """A drafter that is to take over, and who waits for that."""

    drafter: Drafter
    done: asyncio.Future[None]

    def settle(self, error: PacelineError | None) -> None:
        """Tell whoever waits; that one may have gone away."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def open_all(drafter: Drafter, specs: Sequence[SessionSpec]) -> PacelineError | None:
    """In the worker thread: why ``drafter`` can't serve all of them, if it can't."""
    try:
        for spec in specs:
            drafter.open(spec)
    except PacelineError as error:
        return error
    except Exception:
        _log.exception("open failed in a new drafter")
        return Internal("The new drafter failed to open a session; the log says why.")
    return None


class Reloader:
    """``load`` makes the drafter that the settings name, from the files as they are now; it runs in ``worker``."""

    def __init__(self, serving: Serving, load: Callable[[], Drafter], reloads: Counter, worker: Executor) -> None:
        self._serving = serving
        self._load = load
        self._reloads = reloads
        self._worker = worker
        self._is_busy = False

    async def reload(self) -> Reloaded:
        """Returns once the new weights serve. Raises ``PacelineError``; then the old ones still do."""
        if self._is_busy:
            raise Conflict("This drafter is reloading already; ask again when that is done.")
        self._is_busy = True
        try:
            reloaded = await self._reload()
        except PacelineError:
            self._reloads.labels("failed").inc()
            raise
        finally:
            self._is_busy = False
        self._reloads.labels("swapped").inc()
        _log.info("weights swapped", extra={"old": reloaded.old.model_digest, "new": reloaded.new.model_digest})
        return reloaded

    async def _reload(self) -> Reloaded:
        old = self._serving.drafter_info
        if old is None:
            raise NotFound(
                "No drafter is at work here, or it was switched off after a failure; start the process anew."
            )
        try:
            drafter = await asyncio.get_running_loop().run_in_executor(self._worker, self._load)
        except PacelineError:
            raise
        except Exception as error:
            _log.exception("loading failed")
            raise Internal("The new weights could not be loaded; the drafter's log says why.") from error
        _check_fits(old, drafter.info)
        await self._serving.swap(drafter)
        return Reloaded(old, drafter.info)

    async def run(self) -> None:
        """Reload on every SIGHUP, for ever; what goes wrong is in the log."""
        wanted = asyncio.Event()
        with on_hangup(wanted.set):
            while True:
                await wanted.wait()
                wanted.clear()
                try:
                    await self.reload()
                except PacelineError as error:
                    _log.error("reload failed", extra={"reason": str(error)})


def _check_fits(old: DrafterInfo, new: DrafterInfo) -> None:
    """Coordinators chose this drafter by what it said of itself: only its weights may change."""
    expected = replace(
        old,
        name=new.name,
        model_digest=new.model_digest,
        weights_bytes=new.weights_bytes,
        state_bytes=new.state_bytes,
    )
    changed = [one.name for one in fields(old) if getattr(expected, one.name) != getattr(new, one.name)]
    if changed:
        raise Mismatch(
            f"The new weights come with another {' and '.join(changed)}; start a new drafter with them instead."
        )
