"""Engines as child processes: a line of JSON out, a line back; frozen whenever nobody asks.

A frozen process can't spin in an idle thread pool or tidy up while somebody else is measured, and it needs no setting
for that which would slow it down in its own turn. The protocol is in ``workers/__init__``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from paceline.core.errors import Unavailable
from paceline.core.types import Tokens

ReplyT = TypeVar("ReplyT")
LOAD_S = 900.0
"""Some engines compile their kernels for this machine at the first start."""
GENERATE_S = 600.0
LINE_BYTES = 1 << 24
"""An answer is one line: eight prompts of some thousand tokens fit many times."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to load."""

    model: str
    """Path of the weights."""
    mode: str
    threads: int
    streams: int
    """Prompts at a time, at most."""
    max_context: int
    """Tokens of the longest prompt with its output."""
    weights: str
    """What the file says about its numbers; a worker that turns them into others says so itself."""
    bits_per_weight: float
    assistant: str = ""
    """Directory of a smaller model, for mode assisted."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker says it runs."""

    engine: str
    """Name and version."""
    weights: str
    bits_per_weight: float
    max_streams: int
    """Prompts that this mode takes at a time."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers to all prompts of one request."""

    outputs: tuple[Tokens, ...]
    seconds: float
    steps: int | None
    """Passes of the model summed over prompts; None where the engine doesn't say."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """``Generated`` as it came, not believed yet."""

    outputs: list[list[int]]
    seconds: float
    steps: int | None

    def fits(self, num_prompts: int, max_tokens: int) -> bool:
        """Whether it can be an answer: nobody gains by falling short."""
        is_list = isinstance(self.outputs, list) and len(self.outputs) == num_prompts
        return (
            is_list
            and all(isinstance(one, list) and len(one) == max_tokens for one in self.outputs)
            and all(type(token) is int for one in self.outputs for token in one)
            and isinstance(self.seconds, int | float)
            and self.seconds > 0
            and (self.steps is None or type(self.steps) is int)
        )


class PeerChild:
    """One engine in one mode."""

    def __init__(self, name: str, program: Sequence[str], log: Path) -> None:
        self.name = name
        self._program = tuple(program)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process is not None else None

    async def start(self, order: Order, timeout_s: float = LOAD_S) -> Loaded:
        """Run and load. Raises ``Unavailable``, as ``generate`` does."""
        with self._log.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._program,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=LINE_BYTES,
                    start_new_session=True,  # so that it is frozen with all that it starts
                )
            except OSError as error:
                raise Unavailable(f"{self.name} can't be started: {error.strerror}: {self._program[0]}.") from error
        return self._read(Loaded, await self._ask({"verb": "load", **asdict(order)}, timeout_s))

    async def generate(self, prompts: Sequence[Tokens], max_tokens: int, timeout_s: float = GENERATE_S) -> Generated:
        """Raises ``Unavailable`` when it dies, is late, fails, or answers what can't be an answer."""
        message = {"verb": "generate", "prompts": [list(one) for one in prompts], "max_tokens": max_tokens}
        reply = self._read(_Reply, await self._ask(message, timeout_s))
        if not reply.fits(len(prompts), max_tokens):
            raise self._nonsense(reply)
        return Generated(tuple(tuple(one) for one in reply.outputs), reply.seconds, reply.steps)

    async def stop(self) -> None:
        """At once, with all that it started: it has nothing to lose."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def _ask(self, message: dict[str, Any], timeout_s: float) -> object:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Unavailable(f"{self.name} is not running.")
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(timeout_s):
                with suppress(BrokenPipeError, ConnectionResetError):  # it died: reading tells
                    process.stdin.write(json.dumps(message).encode() + b"\n")
                    await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            await self.stop()
            raise Unavailable(f"{self.name} did not answer within {timeout_s:g} s (log: {self._log}).") from None
        except ValueError:
            raise self._nonsense(f"more than {LINE_BYTES} bytes without an end of line") from None
        if not line:
            await self.stop()
            raise Unavailable(f"{self.name} ended: {self._last_words()} (log: {self._log})")
        self._signal(signal.SIGSTOP)
        return self._parse(line)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _parse(self, line: bytes) -> object:
        try:
            reply = json.loads(line)
        except ValueError:
            raise self._nonsense(line) from None
        if isinstance(reply, dict) and "error" in reply:
            raise Unavailable(f"{self.name} failed: {reply['error']} (log: {self._log})")
        return reply

    def _read(self, kind: type[ReplyT], reply: object) -> ReplyT:
        try:
            return kind(**reply)  # type: ignore[arg-type]
        except TypeError:
            raise self._nonsense(reply) from None

    def _nonsense(self, reply: object) -> Unavailable:
        return Unavailable(f"{self.name} answered nonsense: {str(reply)[:120]!r} (log: {self._log})")

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return (lines or ["it said nothing"])[-1]
