"""New weights for a drafter at work: loaded beside the old ones, then swapped between two computations.

By RPC or SIGHUP. Whatever goes wrong, the old weights go on and no session notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from drafter_service.runtime import DrafterRuntime
from paceline.core.errors import Conflict, Internal, Mismatch, PacelineError
from paceline.core.ports import Drafter
from paceline.core.types import DrafterInfo
from paceline.telemetry.metrics import DrafterMetrics
from paceline.wire.server import on_hangup

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What was served before, and what is now."""

    old: DrafterInfo
    new: DrafterInfo


class Reloader:
    """``load`` makes the drafter that the settings name, from the files as they are now; it runs in a thread."""

    def __init__(self, runtime: DrafterRuntime, load: Callable[[], Drafter], metrics: DrafterMetrics) -> None:
        self._runtime = runtime
        self._load = load
        self._metrics = metrics
        self._is_busy = False

    async def reload(self) -> Reloaded:
        """Returns once the new weights serve. Raises ``PacelineError``; then the old ones still do."""
        if self._is_busy:
            raise Conflict("This drafter is reloading already; ask again when that is done.")
        self._is_busy = True
        try:
            reloaded = await self._reload()
        except PacelineError:
            self._metrics.reloads.labels("failed").inc()
            raise
        finally:
            self._is_busy = False
        self._metrics.reloads.labels("swapped").inc()
        _log.info("weights swapped", extra={"old": reloaded.old.model_digest, "new": reloaded.new.model_digest})
        return reloaded

    async def _reload(self) -> Reloaded:
        old = self._runtime.info
        try:
            drafter = await asyncio.to_thread(self._load)
        except PacelineError:
            raise
        except Exception as error:
            _log.exception("loading failed")
            raise Internal("The new weights could not be loaded; the drafter's log says why.") from error
        _check_fits(old, drafter.info)
        await self._runtime.swap(drafter)
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
