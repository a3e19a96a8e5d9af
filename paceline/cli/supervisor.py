"""Runs the services as processes: started in order, restarted when they die, ended together."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.core.errors import Unavailable

_log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """A service to run."""

    role: str
    name: str
    """Unique in the stack; also its log file's."""
    module: str
    settings: tuple[str, ...]
    """key=value each, without ``server.listen``."""
    listen: str = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class Ready:
    """What a process said when it was ready."""

    role: str
    pid: int
    address: str
    metrics: str


class Child:
    """One service, kept alive on one address."""

    def __init__(self, program: Program, log: Path, on_restart: Callable[[Ready], None]) -> None:
        self.program = program
        self.log = log
        self.ready: Ready | None = None
        self._listen = program.listen
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, timeout_s: float) -> Ready:
        """Run until ready. Raises ``Unavailable`` with the end of its log when it dies or takes too long."""
        arguments = [f"--set={one}" for one in (*self.program.settings, f"server.listen={self._listen}")]
        with self.log.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.program.module,
                *arguments,
                "--set=server.ready_file=-",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
                preexec_fn=_die_with_parent,
            )
        try:
            async with asyncio.timeout(timeout_s):
                line = await process.stdout.readline() if process.stdout else b""
        except TimeoutError:
            await self.stop(grace_s=0)
            raise Unavailable(f"{self.program.name} was not ready within {timeout_s:g} s; see {self.log}.") from None
        if not line:
            await process.wait()
            raise Unavailable(f"{self.program.name} did not start: {self._last_words()} (log: {self.log})")
        self.ready = Ready(**json.loads(line))
        self._listen = self.ready.address
        return self.ready

    def _last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        plain = [line for line in lines if not line.startswith("{")]
        own = [line for line in plain if line.startswith(f"{self.program.module}: ")]
        return (own or plain or lines or ["it said nothing"])[-1]

    async def keep_alive(self) -> None:
        """Restart it whenever it dies, for ever; the pause doubles while it doesn't come up."""
        pause = FIRST_PAUSE_S
        while self._process is not None:
            code = await self._process.wait()
            _log.warning("process died", extra={"program": self.program.name, "code": code})
            await asyncio.sleep(pause)
            try:
                self._on_restart(await self.start(timeout_s=300))
                pause = FIRST_PAUSE_S
            except Unavailable as error:
                _log.warning("restart failed", extra={"program": self.program.name, "reason": str(error)})
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after ``grace_s``."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM if grace_s else signal.SIGKILL)
        try:
            async with asyncio.timeout(grace_s or 5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _die_with_parent() -> None:
    """In the child: even when we are killed, no service stays behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        os._exit(1)


@asynccontextmanager
async def kept_alive(children: Sequence[Child]) -> AsyncIterator[None]:
    """Restart whoever dies for the length of the block; a defect of the supervisor itself ends the block."""
    async with asyncio.TaskGroup() as group:
        keepers = [group.create_task(child.keep_alive(), name=child.program.name) for child in children]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()


async def stop_all(children: Sequence[Child], grace_s: float = 5.0) -> None:
    """In reverse order of starting, so that nobody loses a party before its own end."""
    for child in reversed(children):
        await child.stop(grace_s)
