"""Every seam of the system. A room holds one port, several tenants and one lazy registry.

Each port has a contract suite in ``tests/contract`` that all its implementations pass, fakes included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from paceline.core.types import (
    DrafterCommand,
    DrafterEvent,
    DrafterInfo,
    DraftJob,
    FinishReason,
    Guess,
    SessionSpec,
    StepItem,
    StepResult,
    Tokens,
    VerifierCommand,
    VerifierEvent,
    VerifierInfo,
)

InfoOut = TypeVar("InfoOut", covariant=True)
CommandIn = TypeVar("CommandIn", contravariant=True)
EventOut = TypeVar("EventOut", covariant=True)


class Clock(Protocol):
    """Time as the caller sees it; virtual in simulation."""

    def monotonic(self) -> float:
        """Seconds, never going back."""

    def time_ns(self) -> int:
        """Unix time in nanoseconds."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds`` of this clock."""


class TargetState(Protocol):
    """What drafters in the verifier's process may read of the target between two steps; they can't change it.

    How keys and values lie in memory is between a back end and the drafters that know it.
    """

    @property
    def model_digest(self) -> str:
        """As ``VerifierInfo.model_digest``."""

    def length(self, session: str) -> int:
        """Positions whose keys and values can be read. All are committed: a rejected draft is gone with its step."""


class VerifierBackend(Protocol):
    """The target model. Called by one batching loop, one step at a time."""

    @property
    def info(self) -> VerifierInfo:
        """What is served; constant."""

    @property
    def state(self) -> TargetState | None:
        """For drafters that need keys and values; None when there are none."""

    @property
    def worker(self) -> Executor | None:
        """The thread of its steps, where drafters of this process compute too; None when it needs none.

        Compute libraries keep a team of threads per caller: two teams on the same cores get in each other's way.
        """

    @property
    def max_alternatives(self) -> int:
        """Of one step, all sessions together; 0 when it can't check any."""

    def open(self, spec: SessionSpec) -> None:
        """Take a KV slot for the session; its context is fed by later steps.

        Raises ``ResourceExhausted`` without a free slot, ``InvalidRequest`` for tokens or parameters it can't serve.
        """

    def close(self, session: str) -> None:
        """Free the slot; unknown sessions are ignored."""

    async def watch(self) -> None:
        """For as long as the process serves: raises once the back end can't go on, and ends with it when cancelled."""

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        """Run all rows in one forward pass, sample position by position, advance each session.

        Outcome tokens are a pure function of (model, context, sampling, seed), whatever was drafted or batched.
        """


class Drafter(Protocol):
    """A guesser. Called from one worker thread, never concurrently."""

    @property
    def info(self) -> DrafterInfo:
        """What it is and what it needs; constant."""

    def open(self, spec: SessionSpec) -> None:
        """Prepare for a session. Raises ``ResourceExhausted`` when full."""

    def close(self, session: str) -> None:
        """Forget the session; unknown sessions are ignored."""

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Continue each job's context by at most ``max_tokens`` tokens; one guess per job, in order.

        The context is complete every time: a drafter with a cache finds the common prefix and rolls back by itself.
        """

    def state_bytes(self) -> int:
        """Memory of all sessions and of what was learned from them, now; weights are in ``info``."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the store has it."""

    session: str
    state: str
    """``A``ctive, ``D``one, ``C``ancelled or ``F``ailed."""
    epoch: int
    tokens: Tokens
    """Committed output tokens (the prompt is not among them)."""
    max_tokens: int
    fingerprint: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NewSession:
    """What CREATE writes."""

    session: str
    fingerprint: str
    """Hash of the request: the same session id with another one is a conflict."""
    owner: str
    nonce: str
    """Random per ownership; with the epoch it fences former owners."""
    max_tokens: int
    seed: int
    model_digest: str
    numerics_id: str
    prompt: Tokens
    lease_s: float = 3.0
    ttl_s: float = 900.0


class SessionStore(Protocol):
    """Shared memory of coordinators; compare-and-set on an append-only token log."""

    async def create(self, new: NewSession) -> SessionRecord:
        """Create, or return the existing one with the same fingerprint. Raises ``Conflict``, ``StoreUnavailable``."""

    async def commit(
        self, session: str, epoch: int, nonce: str, *, base: int, tokens: Tokens, finish: FinishReason | None
    ) -> int:
        """Append ``tokens`` at output index ``base``; return the new length.

        A full duplicate is fine at any time. Raises ``Fenced``, ``Gap``, ``Diverged``, ``NotFound`` or
        ``StoreUnavailable``.
        """

    async def cancel(self, session: str, reason: str) -> SessionRecord:
        """Make an active session terminal; terminal ones stay as they are. Raises ``NotFound``."""

    async def read(self, session: str) -> SessionRecord:
        """State and tokens in one atomic read. Raises ``NotFound``."""

    async def close(self) -> None:
        """Release connections."""


class Runtime(Protocol[CommandIn, EventOut]):
    """The serving side of a stream, without transport: a verifier's or a drafter's."""

    def attach(self, commands: AsyncIterator[Sequence[CommandIn]]) -> AsyncIterator[Sequence[EventOut]]:
        """Serve one peer until its commands end; its sessions are closed with it. Events come in batches."""


class Link(Protocol[InfoOut, CommandIn, EventOut]):
    """The calling side of a stream, over gRPC or in memory."""

    @property
    def address(self) -> str:
        """host:port, or a name for people."""

    async def describe(self) -> InfoOut:
        """Ask what is served. Raises ``Unavailable``."""

    def send(self, command: CommandIn) -> None:
        """Queue without waiting; what waits for the stream together travels together, newer drafts replace older."""

    def events(self) -> AsyncIterator[Sequence[EventOut]]:
        """Batches of events; raises ``Unavailable`` when the peer is lost. Called once per link."""

    async def close(self) -> None:
        """End the stream and release the connection."""


VerifierLink = Link[VerifierInfo, VerifierCommand, VerifierEvent]
DrafterLink = Link[DrafterInfo, DrafterCommand, DrafterEvent]
