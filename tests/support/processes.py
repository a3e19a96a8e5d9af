"""Real stacks for tests: ``paceline up`` as a process of its own, and the command line as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

START_S = 300
PACELINE = (sys.executable, "-m", "paceline.cli")


@dataclass(frozen=True)
class Outcome:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(cache: Path | None = None) -> dict[str, str]:
    """The test's own, without settings of a developer's shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PACELINE_")}
    return kept | ({"PACELINE_CACHE": str(cache)} if cache else {})


def paceline(*arguments: str, env: dict[str, str] | None = None, timeout: float = 300, stdin: str = "") -> Outcome:
    """Run ``paceline`` to its end."""
    done = subprocess.run(
        [*PACELINE, *arguments],
        env=env or environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class RunningStack:
    """``paceline up --json`` once it has said that it is ready."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self._process = process
        self.ready = ready
        self.grpc: str = ready["grpc"]

    def pids(self, role: str) -> list[int]:
        return [one["pid"] for one in self.ready["processes"] if one["role"] == role]

    def pid_at(self, address: str) -> int:
        return next(one["pid"] for one in self.ready["processes"] if one["address"] == address)

    def kill(self) -> None:
        """SIGKILL of the supervisor alone."""
        self._process.kill()
        self._process.wait(120)

    def interrupt(self, timeout: float = 120) -> int:
        """Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(timeout)


def generate(running: RunningStack, *arguments: str) -> dict[str, object]:
    """The JSON of one ``paceline generate``."""
    done = paceline("generate", "--target", running.grpc, "--json", *arguments)
    assert done.code == 0, done.err
    answer: dict[str, object] = done.json
    return answer


def generate_drafted(running: RunningStack, *arguments: str) -> dict[str, Any]:
    """The first answer in which a draft was of use; on a busy machine they may all come too late for a while."""
    while True:
        answer: dict[str, Any] = generate(running, *arguments)
        if answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"]:
            return answer


@contextmanager
def stack(*options: str, env: dict[str, str] | None = None) -> Iterator[RunningStack]:
    """A stack on free ports for the length of the block; every process of it is gone afterwards."""
    command = [*PACELINE, "up", "--json", "--port", "0", *options]
    process = subprocess.Popen(
        command, env=env or environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield RunningStack(process, _ready(process))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
            assert "Traceback" not in errors, errors


def _ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        _, errors = process.communicate(timeout=START_S)
        raise AssertionError(f"the stack did not start: {errors}")
    ready: dict[str, Any] = json.loads(line)
    assert "error" not in ready, f"the stack did not start: {ready}"
    return ready


def synthetic(*, step_s: float = 0.0, settings: Sequence[str] = ()) -> list[str]:
    """Options of a stack without a model whose steps take ``step_s``."""
    chosen = [f"verifier.synthetic.step_base_s={step_s}", *settings]
    return ["--backend", "synthetic", *(word for one in chosen for word in ("--set", one))]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
