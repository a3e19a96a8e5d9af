"""Groups of prompts in turns: each group by every contender before the next group, in changing order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paceline.cli.modes import PLAIN, Asking, Encode, Service, request_in
from paceline.cli.peers.catalogue import Peer
from paceline.cli.peers.children import Generated, Loaded, PeerChild
from paceline.cli.prompts import PromptRow
from paceline.core.errors import PacelineError, Unavailable
from paceline.core.types import Tokens

OURS = "paceline"
SETTLE_S = 0.3
"""After a turn of ours: OpenMP's threads go on spinning for 0.2 s after their last work. Peers are frozen instead."""

Run = Callable[[Sequence[PromptRow]], Awaitable[Generated]]


@dataclass(frozen=True, slots=True)
class Contender:
    """Who takes part."""

    name: str
    engine: str
    """``OURS`` or a peer's; outputs are compared with those of the same engine's plain mode."""
    is_plain: bool
    run: Run
    """One group of prompts, all at a time."""
    max_streams: int | None = None
    """Prompts that it takes at a time; None for any number."""
    about: Loaded | None = None
    """Of a peer."""

    def takes(self, streams: int) -> bool:
        """Whether it can be measured with so many prompts at a time."""
        return self.max_streams is None or streams <= self.max_streams


@dataclass(frozen=True, slots=True)
class Turn:
    """One group by one contender."""

    contender: str
    streams: int
    group: int
    round: int
    prompts: tuple[str, ...]
    seconds: float
    outputs: tuple[Tokens, ...]
    steps: int | None

    @property
    def num_tokens(self) -> int:
        """Of all outputs."""
        return sum(map(len, self.outputs))

    @property
    def rate(self) -> float:
        """Tokens per second of the whole group, prompts included."""
        return self.num_tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer without figures."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    rows: Sequence[PromptRow]
    levels: Sequence[int]
    """Prompts at a time."""
    rounds: int = 1

    def groups(self, streams: int) -> list[list[PromptRow]]:
        """All of one size, so that all are equally hard to fill: the last one begins again with the first prompts."""
        rows = list(self.rows)
        starts = range(0, len(rows), streams)
        return [[rows[(start + offset) % len(rows)] for offset in range(streams)] for start in starts]

    def num_turns(self, contenders: Sequence[Contender]) -> int:
        """Warming up included."""
        per_level = {level: self.rounds * len(self.groups(level)) + 1 for level in self.levels}
        return sum(turns for level, turns in per_level.items() for one in contenders if one.takes(level))


async def measure(
    contenders: Sequence[Contender], plan: Plan, tick: Callable[[str], None]
) -> tuple[list[Turn], list[Absent]]:
    """All turns, and who fell out on the way: a peer that fails, with its turns. A failure of ours is raised."""
    turns: list[Turn] = []
    fallen: dict[str, Absent] = {}
    for level in plan.levels:
        able = [one for one in contenders if one.takes(level)]
        groups = plan.groups(level)
        # The first request of a process pays for its pages, and compiles what isn't compiled yet.
        order = [(one, 0, -1) for one in able]
        order += [
            (able[(index + number + offset) % len(able)], index, number)
            for number in range(plan.rounds)
            for index in range(len(groups))
            for offset in range(len(able))
        ]
        for contender, index, number in order:
            tick(f"{contender.name}, {level} at a time")
            if contender.name in fallen:
                continue
            try:
                done = await contender.run(groups[index])
            except PacelineError as error:
                if contender.engine == OURS:
                    raise
                fallen[contender.name] = Absent(contender.name, str(error))
                continue
            if number >= 0:
                turns.append(_turn(contender.name, groups[index], index, number, done))
    return [one for one in turns if one.contender not in fallen], list(fallen.values())


def _turn(name: str, group: Sequence[PromptRow], index: int, number: int, done: Generated) -> Turn:
    prompts = tuple(row.name for row in group)
    return Turn(name, len(group), index, number, prompts, done.seconds, done.outputs, done.steps)


def ours(mode: str, service: Service, asking: Asking) -> Contender:
    """A mode of the stack, timed by whoever asks: from the first request sent to the last answer received."""
    template = request_in(mode, asking.request)

    async def run(group: Sequence[PromptRow]) -> Generated:
        requests = [asking.of(template, row) for row in group]
        started = time.perf_counter()
        answers = await asyncio.gather(*map(service.complete, requests))
        seconds = time.perf_counter() - started
        await asyncio.sleep(SETTLE_S)
        steps = sum(one.finished.speculative.num_steps for one in answers)
        return Generated(tuple(one.token_ids for one in answers), seconds, steps)

    return Contender(f"{OURS}:{mode}", OURS, mode == PLAIN, run)


def theirs(peer: Peer, child: PeerChild, about: Loaded, encode: Encode, max_tokens: int) -> Contender:
    """A peer, timed by itself: the way to it costs it nothing."""

    async def run(group: Sequence[PromptRow]) -> Generated:
        return await child.generate([encode(row) for row in group], max_tokens)

    return Contender(peer.name, peer.engine, peer.mode == PLAIN, run, about.max_streams, about)


def check_someone(contenders: Sequence[Contender], absent: Sequence[Absent]) -> None:
    """Raises ``Unavailable`` when there is nobody to compare with."""
    if not contenders:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in absent)
        raise Unavailable(f"No peer could be started. {reasons}")
