"""Prints the exchange that docs/protocol.md shows: one session, a synthetic verifier and drafter, no network.

Time stands still but for the verifier's steps, which end one by one: the output is the same on every machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from drafter_service.runtime import DrafterRuntime
from paceline.config.settings import SyntheticSettings, VerifierSettings
from paceline.core.ports import DrafterLink, VerifierLink
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    DrafterCommand,
    SamplingParams,
    SessionSpec,
    StopRules,
    VerifierCommand,
)
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.telemetry.metrics import DrafterMetrics, VerifierMetrics
from paceline.telemetry.spans import Tracer
from paceline.verifiers.synthetic import SyntheticVerifier
from paceline.wire import frames
from paceline.wire.memory import MemoryLink
from verifier_service.runtime import VerifierRuntime

MODEL = SyntheticSettings(vocab_size=100, step_base_s=0.02, agreement=0.8)
SPEC = SessionSpec("s1", (11, 12, 20), 3, SamplingParams(), StopRules(64), max_draft=4, window=6)
NUM_STEPS = 3
EventT = TypeVar("EventT")


class StepClock:
    """``core.ports.Clock`` in which only ``end_step`` lets time go by."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends = asyncio.Semaphore(0)

    def monotonic(self) -> float:
        return self._now

    def time_ns(self) -> int:
        return int(self._now * 1e9)

    async def sleep(self, seconds: float) -> None:
        await self._ends.acquire()
        self._now += seconds

    def end_step(self) -> None:
        self._ends.release()


def show(way: str, message: Message) -> None:
    fields = MessageToDict(message, preserving_proto_field_name=True)
    sys.stdout.write(f"{way} {message.ByteSize():2} bytes {json.dumps(fields)}\n")


async def first(batches: AsyncIterator[Sequence[EventT]]) -> EventT:
    (event,) = await anext(batches)
    return event


class Coordinator:
    """Its part of the exchange, in lock step: every step of the verifier ends when the next draft is here."""

    def __init__(self, verifier: VerifierLink, drafter: DrafterLink, clock: StepClock) -> None:
        self._verifier = verifier
        self._drafter = drafter
        self._clock = clock

    def to_verifier(self, *commands: VerifierCommand) -> None:
        for command in commands:
            self._verifier.send(command)
        show("C→V", frames.verify_request_to_pb(commands))

    def to_drafter(self, command: DrafterCommand) -> None:
        self._drafter.send(command)
        show("C→D", frames.draft_request_to_pb([command]))

    async def run(self) -> None:
        commits, drafts = self._verifier.events(), self._drafter.events()
        self.to_verifier(SPEC, Credit("s1", 3))  # the credit holds it back until the first draft is here
        self.to_drafter(SPEC)
        for step in range(NUM_STEPS):
            draft = await first(drafts)
            show("D→C", frames.draft_response_to_pb([draft]))
            self.to_verifier(cast("Draft", draft), *([Credit("s1", 67)] if step == 0 else []))
            self._clock.end_step()
            commit = await first(commits)
            show("V→C", frames.verify_response_to_pb([commit]))
            self.to_drafter(cast("Commit", commit))
        self.to_verifier(Close("s1"))
        self.to_drafter(Close("s1"))


async def main() -> None:
    clock, tracer = StepClock(), Tracer("example")
    backend, guesser = SyntheticVerifier(VerifierSettings(synthetic=MODEL), clock), SyntheticDrafter(1, MODEL)
    metrics = VerifierMetrics(CollectorRegistry())
    verifier = VerifierRuntime(backend, VerifierSettings(), clock, tracer=tracer, metrics=metrics)
    drafter = DrafterRuntime(guesser, clock, tracer=tracer, metrics=DrafterMetrics(CollectorRegistry()))
    loops = [asyncio.create_task(verifier.run()), asyncio.create_task(drafter.run())]
    up: VerifierLink = MemoryLink(verifier, verifier.info, "verifier")
    down: DrafterLink = MemoryLink(drafter, drafter.info, "drafter")
    await Coordinator(up, down, clock).run()
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)


if __name__ == "__main__":
    asyncio.run(main())
