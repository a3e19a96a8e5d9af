"""One session's life: opened at a verifier and a drafter, written to the store, shown to the client in that order.

Events of the pools come in by callbacks that never wait: a commit goes on to the drafter, and a draft to the
verifier, in the same call. One task per session does what takes time; commits that arrive while the store is busy
are written together. Losing the drafter costs speed; losing the verifier costs a reopening elsewhere, same bits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from coordinator.journal import Journal
from coordinator.metering import SpeculativeMeter
from coordinator.outlet import Outlet
from coordinator.output import OutputText, Piece
from coordinator.placing import Place
from coordinator.pools import Pool, can_draft
from coordinator.requests import Admitted
from paceline.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Diverged,
    Internal,
    PacelineError,
    StoreUnavailable,
    Unavailable,
)
from paceline.core.ports import Clock
from paceline.core.requests import Finished, Started, Usage
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    FinishReason,
    SessionSpec,
    Tokens,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)
from paceline.telemetry.metrics import CoordinatorMetrics
from paceline.telemetry.spans import Tracer
from paceline.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

VerifierPool = Pool[VerifierInfo, VerifierCommand, VerifierEvent]
DrafterPool = Pool[DrafterInfo, DrafterCommand, DrafterEvent]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a coordinator share."""

    verifiers: VerifierPool
    drafters: DrafterPool
    tokenizer: Tokenizer | None
    clock: Clock
    tracer: Tracer
    metrics: CoordinatorMetrics
    window: int
    commit_credit: int


class Session:
    """From admission to the last event; ``run`` is its task, everything else is called from callbacks and the reader."""

    def __init__(self, admitted: Admitted, journal: Journal, around: Surroundings) -> None:
        self.outlet = Outlet()
        self._admitted = admitted
        self._journal = journal
        self._around = around
        self._arrived = around.clock.monotonic()
        self._first_token: float | None = None
        self._text = OutputText(around.tokenizer, admitted.stop_strings)
        self._meter = SpeculativeMeter(admitted.max_draft)
        self._output: list[int] = []
        self._unwritten: deque[Piece] = deque()
        self._wake = asyncio.Event()
        self._has_ended = False
        self._cancel_reason = ""
        self._error: PacelineError | None = None
        self._granted = 0
        self._trace = admitted.trace
        self._verifier = Place(
            admitted.session,
            around.verifiers,
            around.clock,
            on_event=self._on_verifier_event,
            on_gone=self._on_verifier_gone,
        )
        self._drafter = Place(
            admitted.session,
            around.drafters,
            around.clock,
            on_event=self._on_drafter_event,
            on_gone=self._on_drafter_gone,
        )

    async def run(self) -> None:
        """Never raises but when it is cancelled itself: the client gets the error."""
        around = self._around
        around.verifiers.subscribe(self._wake.set)
        around.drafters.subscribe(self._wake.set)
        try:
            await self._run_in_time()
        except PacelineError as error:
            await self._abort(error)
        except asyncio.CancelledError:
            self.outlet.end(Unavailable("The coordinator is shutting down; send the request to another one."))
            raise
        except Exception:
            _log.exception("session failed", extra={"session": self._admitted.session})
            await self._abort(Internal("The coordinator failed in this request; its log says why."))
        finally:
            self._release()
            around.verifiers.unsubscribe(self._wake.set)
            around.drafters.unsubscribe(self._wake.set)

    def cancel(self, reason: str) -> bool:
        """Stop at once at verifier and drafter; false when the session had already ended."""
        if self._has_ended:
            return False
        self._has_ended = True
        self._cancel_reason = reason
        self._release()
        self._wake.set()
        return True
