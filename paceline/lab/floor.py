"""Whether drafts ever cost: against plain decoding under the worst drafters, and against the best fixed block.

The real services in virtual time. Latency of a token is the time since the one before it, tokens that come together
sharing theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import product

from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings
from paceline.core.errors import invariant
from paceline.core.requests import Chunk, DraftMode, GenerateRequest
from paceline.core.types import DraftJob, Guess
from paceline.drafters import create_drafter
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.lab.formulas import Hardware
from paceline.lab.links import synthetic_of
from paceline.lab.virtual_time import run
from paceline.testing.reference import reference
from paceline.testing.system import LocalSystem, drafter, local_system, verifier


class Trouble(StrEnum):
    """What is wrong with the drafters."""

    GARBAGE = "garbage"
    """Every guess is wrong, and they are sure of it."""
    DEAD = "dead"
    """They die a while after the start."""
    FAR = "a second away"


FAR_S = 1.0
BLOCKS = (1, 2, 4, 8, 16)
"""Fixed lengths that the controller is held against, beside plain decoding."""
LATE = 0.99


@dataclass(frozen=True, slots=True)
class Load:
    """One experiment."""

    hardware: Hardware
    mode: DraftMode
    rtt_s: float = 0.0
    num_sessions: int = 1
    num_tokens: int = 100
    """Of each session."""
    jitter: float = 0.2
    block: int = 0
    """Draft tokens in every step; 0 leaves it to the verifier."""
    dies: bool = False
    """The drafter does, after a quarter of the first session."""
    boasts: bool = False
    """The drafter is sure of whatever it says."""


@dataclass(frozen=True, slots=True)
class Served:
    """How it went."""

    p50_s: float
    p99_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Against plain decoding of the same requests."""

    trouble: Trouble
    mode: DraftMode
    p50: float
    """Ratio of latencies."""
    p99: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Throughput of a mode over that of plain decoding."""

    num_sessions: int
    mode: DraftMode
    ratio: float


@dataclass(frozen=True, slots=True)
class Cell:
    """A place of the grid, and how far the controller is from the best fixed setting there."""

    acceptance: float
    rtt: float
    """In plain steps."""
    num_sessions: int
    row_share: float
    """Of a plain step: the price of a further row."""
    best_block: int
    """0 is plain decoding."""
    ratio: float
    """Tokens per second of the controller over those of the best fixed setting."""


ACCEPTANCES = (0.3, 0.6, 0.8, 0.95)
RTTS = (0.0, 0.5)
SESSIONS = (1, 4, 16)
ROW_SHARES = (0.01, 0.1)
Place = tuple[float, float, int, float]
"""Acceptance, round trip in plain steps, sessions, price of a row."""
PLACES: tuple[Place, ...] = tuple(product(ACCEPTANCES, RTTS, SESSIONS, ROW_SHARES))


POOLED = (DraftMode.SYNC, DraftMode.PIPELINE, DraftMode.LOOKAHEAD)


class Boaster(SyntheticDrafter):
    """As sure of whatever it says as one that is mostly right."""

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """The same guesses."""
        return [replace(guess, confidences=(0.8,) * len(guess.token_ids)) for guess in super().extend(jobs)]


def floors(on: Hardware, num_tokens: int, tick: Callable[[], None] = lambda: None) -> list[Floor]:
    """One session with each trouble in each mode that needs drafters elsewhere."""
    plain = serve(Load(on, DraftMode.PLAIN, num_tokens=num_tokens))
    found = []
    for trouble, mode in product(Trouble, POOLED):
        load = replace(_in_trouble(on, trouble), mode=mode, num_tokens=num_tokens)
        served = serve(load)
        found.append(Floor(trouble, mode, served.p50_s / plain.p50_s, served.p99_s / plain.p99_s))
        tick()
    return found


def _in_trouble(on: Hardware, trouble: Trouble) -> Load:
    if trouble is Trouble.GARBAGE:
        return Load(replace(on, acceptance=0.0, hit=0.0), DraftMode.PLAIN, boasts=True)
    if trouble is Trouble.DEAD:
        return Load(on, DraftMode.PLAIN, dies=True)
    return Load(on, DraftMode.PLAIN, rtt_s=FAR_S)


def crowds(
    on: Hardware, sessions: Sequence[int], num_tokens: int, tick: Callable[[], None] = lambda: None
) -> list[Crowd]:
    """Throughput of every mode by the number of sessions, at a link of a third of a step."""
    found = []
    for count in sessions:
        load = Load(on, DraftMode.PLAIN, 0.3 * on.plain_s, count, num_tokens)
        plain = serve(load)
        for mode in POOLED:
            found.append(Crowd(count, mode, serve(replace(load, mode=mode)).tokens_per_s / plain.tokens_per_s))
            tick()
    return found


def grid(on: Hardware, places: Sequence[Place], num_tokens: int, tick: Callable[[], None] = lambda: None) -> list[Cell]:
    """The controller in mode pipeline against plain decoding and every fixed block, cell by cell."""
    found = []
    for acceptance, rtt, count, row_share in places:
        hardware = replace(on, acceptance=acceptance, row_s=row_share * on.plain_s)
        load = Load(hardware, DraftMode.PIPELINE, rtt * on.plain_s, count, num_tokens)
        fixed = {0: serve(replace(load, mode=DraftMode.PLAIN)).tokens_per_s}
        fixed |= {block: serve(replace(load, block=block)).tokens_per_s for block in BLOCKS}
        best = max(fixed, key=fixed.__getitem__)
        ratio = serve(load).tokens_per_s / fixed[best]
        found.append(Cell(acceptance, rtt, count, row_share, best, ratio))
        tick()
    return found


def serve(load: Load) -> Served:
    """Run it, and check that every token is the target's own."""
    return run(_serve(load))


async def _serve(load: Load) -> Served:
    synthetic = synthetic_of(load.hardware)
    verifying = VerifierSettings(backend="synthetic", synthetic=synthetic, max_sessions=load.num_sessions)
    drafting = DrafterSettings(drafter="synthetic", synthetic=synthetic, max_sessions=load.num_sessions)
    make = partial(Boaster, load.num_sessions, synthetic) if load.boasts else partial(create_drafter, drafting)
    link = f"rtt={load.rtt_s * 1e3:.6f}ms,jitter={load.jitter * 100:g}%" if load.rtt_s else ""
    settings = CoordinatorSettings(drafter_link=link, max_tokens=load.num_tokens)
    async with local_system([verifier(verifying)], [drafter(drafting, lambda _: make())], settings=settings) as system:
        clock = asyncio.get_running_loop().time
        began = clock()
        latencies = await asyncio.gather(*(_one(system, load, index) for index in range(load.num_sessions)))
        took = clock() - began
    every = sorted(one for some in latencies for one in some)
    return Served(_at(every, 0.5), _at(every, LATE), load.num_sessions * load.num_tokens / took)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _one(system: LocalSystem, load: Load, index: int) -> list[float]:
    """Seconds of every token after the first chunk, or after the drafter's death."""
    prompt, clock = (*range(1, 9), index), asyncio.get_running_loop().time
    request = GenerateRequest(
        prompt,
        seed=index,
        max_tokens=load.num_tokens,
        mode=load.mode,
        min_draft=load.block,
        max_draft=load.block or None,
    )
    latencies: list[float] = []
    tokens: list[int] = []
    last = -1.0
    async for event in system.generate(request):
        if not isinstance(event, Chunk):
            continue
        now = clock()
        if last >= 0.0:
            latencies += [(now - last) / len(event.token_ids)] * len(event.token_ids)
        last, tokens = now, [*tokens, *event.token_ids]
        if load.dies and index == 0 and len(tokens) >= load.num_tokens // 4 and system.drafters[0].runtime is not None:
            system.drafters[0].kill()
            latencies.clear()
    expected = reference(prompt, load.num_tokens, settings=synthetic_of(load.hardware))
    invariant(tuple(tokens) == expected, "no trouble changes a token")
    return latencies
