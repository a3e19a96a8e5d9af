"""What a round trip to the drafters costs in every mode: the real services in virtual time, over emulated links.

Only text, hardware and network are made up. One seed is one history: the same numbers come out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from paceline.config.settings import CoordinatorSettings, DrafterSettings, SyntheticSettings, VerifierSettings
from paceline.core.errors import invariant
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.lab.formulas import Hardware, token_s
from paceline.lab.virtual_time import run
from paceline.speculation.lookahead import LEAST_REACH
from paceline.testing.parties import MakeDrafter, MakeVerifier
from paceline.testing.reference import reference
from paceline.testing.system import LocalSystem, drafter, local_system, verifier
from paceline.wire.counted import DRAFT, VERIFY, Counted, Traffic

MODES = (DraftMode.PLAIN, DraftMode.COLOCATED, DraftMode.SYNC, DraftMode.PIPELINE, DraftMode.LOOKAHEAD)
WITHOUT_LINK = (DraftMode.PLAIN, DraftMode.COLOCATED)
"""Measured once: there is nothing on the way."""
NUM_PROMPTS = 3
VOCAB_SIZE = 32_000


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of protobuf messages per output token, openings and closings included; ways as data flows."""

    from_drafter: float = 0.0
    to_verifier: float = 0.0
    from_verifier: float = 0.0
    to_drafter: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One mode over one link."""

    token_s: float
    """After the first."""
    tokens_per_step: float
    traffic: Bytes


@dataclass(frozen=True, slots=True)
class Point:
    """A mode at a distance."""

    mode: DraftMode
    rtt: float
    """In plain steps."""
    token_s: float
    """Measured time per token after the first."""
    paper_s: float
    """By the formula."""
    tokens_per_step: float
    speedup: float
    """Over plain decoding, measured."""
    traffic: Bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    hardware: Hardware
    rtts: Sequence[float]
    """In plain steps."""
    jitter: float = 0.2
    num_tokens: int = 600
    """Per point, over all prompts."""
    modes: Sequence[DraftMode] = MODES
    least_reach: float = LEAST_REACH


def curves(plan: Plan, tick: Callable[[], None] = lambda: None) -> list[Point]:
    """All points, mode by mode."""
    plain = measure(plan, DraftMode.PLAIN, 0.0)
    points = []
    for mode in plan.modes:
        once = measure(plan, mode, 0.0) if mode in WITHOUT_LINK else None
        for rtt in plan.rtts:
            one = once or measure(plan, mode, rtt)
            paper = token_s(plan.hardware, mode, rtt * plan.hardware.plain_s)
            speedup = plain.token_s / one.token_s
            points.append(Point(mode, rtt, one.token_s, paper, one.tokens_per_step, speedup, one.traffic))
            tick()
    return points


def measure(plan: Plan, mode: DraftMode, rtt: float) -> Measured:
    """A mode, the drafters ``rtt`` plain steps away."""
    return run(_measure(plan, mode, rtt))


async def _measure(plan: Plan, mode: DraftMode, rtt: float) -> Measured:
    ways = [Traffic() for _ in fields(Bytes)]
    synthetic, count = synthetic_of(plan.hardware), plan.num_tokens // NUM_PROMPTS
    seconds = tokens = steps = 0.0
    async with local_system(*_parties(plan, mode, ways), settings=_settings(plan, rtt)) as system:
        for index in range(NUM_PROMPTS):
            request = GenerateRequest(_prompt(index), seed=index, max_tokens=count, mode=mode)
            taken = await _complete(system, request, synthetic)
            seconds, tokens, steps = seconds + taken[0], tokens + count - 1, steps + taken[1]
    per_token = Bytes(*(way.num_bytes / (count * NUM_PROMPTS) for way in ways))
    return Measured(seconds / tokens, tokens / steps, per_token)


async def _complete(system: LocalSystem, request: GenerateRequest, synthetic: SyntheticSettings) -> tuple[float, int]:
    began = asyncio.get_running_loop().time()
    done = await system.complete(request)
    ended = asyncio.get_running_loop().time()
    prompt, length = request.prompt, request.max_tokens or 0
    expected = reference(prompt, length, settings=synthetic) if isinstance(prompt, tuple) else ()
    invariant(done.token_ids == expected, "no mode and no link changes a token")
    return ended - began - done.finished.first_token_s, done.finished.speculative.num_steps - 1


def _prompt(index: int) -> tuple[int, ...]:
    return (*range(1, 9), index)


def synthetic_of(on: Hardware) -> SyntheticSettings:
    """A target and a drafter of these numbers."""
    return SyntheticSettings(
        vocab_size=VOCAB_SIZE,
        step_base_s=on.plain_s - on.row_s,
        step_row_s=on.row_s,
        agreement=on.acceptance,
        alternatives=on.alternatives,
        hit=on.hit,
        call_token_s=on.token_s,
        call_row_s=on.branch_s,
    )


def _parties(plan: Plan, mode: DraftMode, ways: Sequence[Traffic]) -> tuple[list[MakeVerifier], list[MakeDrafter]]:
    """Whose messages are counted in ``ways``, in the order of ``Bytes``."""
    synthetic = synthetic_of(plan.hardware)
    verifying = VerifierSettings(backend="synthetic", synthetic=synthetic)
    drafting = DrafterSettings(drafter="synthetic", synthetic=synthetic, least_reach=plan.least_reach)
    is_resident = mode is DraftMode.COLOCATED
    lodger = SyntheticDrafter(verifying.max_sessions, synthetic) if is_resident else None
    verify, draft = verifier(verifying, resident=lambda target: lodger), drafter(drafting)
    from_drafter, to_verifier, from_verifier, to_drafter = ways
    verifiers: list[MakeVerifier] = [lambda clock: Counted(verify(clock), VERIFY, to_verifier, from_verifier)]
    drafters: list[MakeDrafter] = [lambda clock: Counted(draft(clock), DRAFT, to_drafter, from_drafter)]
    return verifiers, [] if is_resident else drafters


def _settings(plan: Plan, rtt: float) -> CoordinatorSettings:
    link = f"rtt={rtt * plan.hardware.plain_s * 1e3:.6f}ms,jitter={plan.jitter * 100:g}%" if rtt else ""
    return CoordinatorSettings(drafter_link=link, max_tokens=plan.num_tokens)
