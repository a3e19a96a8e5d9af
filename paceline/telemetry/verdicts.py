"""A rotating log of verdicts in a directory of this machine, off unless the operator names one.

A thread writes; whoever has a verdict never waits. What does not fit into the queue is dropped and counted. When the
disk is full or gone, the log switches itself off with one line in the service's log, and serving goes on.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from prometheus_client import Counter

from paceline.core.errors import InvalidRequest
from paceline.core.verdicts import Verdict, verdict_to_line

_log = logging.getLogger(__name__)

QUEUE = 4096
"""Verdicts that wait for the disk at most."""
END_S = 5.0
"""A disk that takes longer is not waited for at the end."""


class VerdictSink(Protocol):
    """Where verdicts go."""

    @property
    def is_on(self) -> bool:
        """Verdicts may be kept."""

    @property
    def generation(self) -> int:
        """Grows with every file: in a new one sessions give their context again."""

    def put(self, verdict: Verdict) -> bool:
        """Never waits; false when it was dropped."""


class NoVerdicts:
    """``VerdictSink`` of an operator who wants no log."""

    is_on = False
    generation = 0

    def put(self, verdict: Verdict) -> bool:
        """Dropped."""
        return False


@dataclass(frozen=True, slots=True)
class Room:
    """What the log may take."""

    file_bytes: int
    """Of one file; the next one begins before it grows beyond."""
    num_files: int
    """The oldest go when there are more."""


def create_file(path: Path) -> BinaryIO:
    """A new file that only its owner can read. Raises ``FileExistsError``."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


class VerdictLog:
    """``VerdictSink`` with a thread of its own, from its making until ``close``."""

    def __init__(
        self, directory: Path, room: Room, counter: Counter, *, create: Callable[[Path], BinaryIO] = create_file
    ) -> None:
        _make_writable(directory)
        self.generation = 0
        self._directory = directory
        self._room = room
        self._counter = counter
        self._create = create
        self._file: BinaryIO | None = None
        self._size = 0
        self._waiting: queue.Queue[Verdict | None] = queue.Queue(QUEUE)
        self._is_off = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verdicts", daemon=True)
        self._thread.start()

    @property
    def is_on(self) -> bool:
        """False once writing has failed."""
        return not self._is_off.is_set()

    def put(self, verdict: Verdict) -> bool:
        """Never waits; false when it was dropped."""
        try:
            if self.is_on:
                self._waiting.put_nowait(verdict)
                return True
        except queue.Full:
            pass
        self._counter.labels("dropped").inc()
        return False

    def close(self) -> None:
        """Write what waits, then end; a disk that hangs is left alone after a while."""
        try:
            self._waiting.put(None, timeout=END_S)
        except queue.Full:
            _log.warning("verdicts not written", extra={"reason": "the disk takes too long"})
            return
        self._thread.join(END_S)

    def _run(self) -> None:
        try:
            while (verdict := self._waiting.get()) is not None:
                self._write(verdict)
                if self._waiting.empty() and self._file is not None:
                    self._file.flush()
            self._end_file()
        except OSError as error:
            self._switch_off(error)

    def _write(self, verdict: Verdict) -> None:
        line = verdict_to_line(verdict).encode() + b"\n"
        if self._file is not None and self._size + len(line) > self._room.file_bytes:
            self._end_file()
            self.generation += 1
        file = self._file = self._file or self._begin_file()
        file.write(line)
        self._size += len(line)
        self._counter.labels("written").inc()

    def _begin_file(self) -> BinaryIO:
        """The next number that nobody has taken; the oldest files make room."""
        files = log_files(self._directory)
        for old in files[: max(0, len(files) - self._room.num_files + 1)]:
            old.unlink(missing_ok=True)
        number = _number(files[-1]) + 1 if files else 1
        while True:
            try:
                file = self._create(self._directory / f"verdicts-{number:08}.jsonl")
            except FileExistsError:
                number += 1  # another coordinator writes here, too
                continue
            self._size = 0
            return file

    def _end_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _switch_off(self, error: OSError) -> None:
        self._is_off.set()
        reason = error.strerror or str(error)
        _log.error("verdict log switched off", extra={"directory": str(self._directory), "reason": reason})
        try:
            self._end_file()
        except OSError:
            self._file = None
        while not self._waiting.empty():
            if self._waiting.get_nowait() is not None:
                self._counter.labels("dropped").inc()


def log_files(directory: Path) -> list[Path]:
    """Oldest first."""
    return sorted((file for file in directory.glob("verdicts-*.jsonl") if file.stem[9:].isdecimal()), key=_number)


def _number(file: Path) -> int:
    return int(file.stem[9:])


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"verdict_log: can't make {directory}: {error.strerror}.") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InvalidRequest(f"verdict_log: can't write into {directory}; choose another directory.")
