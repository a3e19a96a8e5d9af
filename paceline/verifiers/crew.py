"""The ranks of a verifier that is larger than one device: rank 0 serves, the others follow it.

On one machine rank 0 starts the others as processes of its own; on several, whoever runs them starts each with its
``rank`` and the ``rendezvous``. Nobody outlives the others for long: what is lost is said, and all of them end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Self

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest, PacelineError
from paceline.models.ranks import Ranks

BEAT_S = 1.0
"""Pause between two questions whether everybody is still there."""
_SHARED = ("model", "dtype", "quantize", "max_sessions", "max_context", "tensor_parallel", "rank_timeout_s")
"""Settings that must be the same for all."""
_FAREWELL_S = 5.0


class Crew:
    """This process's ranks, and the processes among them that are its own."""

    def __init__(self, ranks: Ranks, own: _Own | None = None) -> None:
        self.ranks = ranks
        self._own = own
        if own is not None:
            ranks.explain = own.whereabouts

    @classmethod
    def join(cls, settings: VerifierSettings) -> Self | None:
        """Meet the others; None when there are none. Raises ``Unavailable`` and ``InvalidRequest``."""
        _check(settings)
        if settings.tensor_parallel == 1:
            return None
        if settings.rendezvous:
            return cls(_meet(settings))
        own = _Own(settings)
        try:
            return cls(_meet(own.settings), own)
        except PacelineError:
            own.stop()
            raise

    def stop(self, *, farewell: bool = True) -> None:
        """Leave the others; end the processes that are this one's."""
        if self._own is not None:
            self._own.stop(farewell=farewell)
        self.ranks.leave()


class _Own:
    """The other ranks as processes on this machine, and the folder where they meet."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="paceline-ranks-")
        self.settings = replace(settings, rendezvous=(Path(self._folder.name) / "rendezvous").as_uri())
        self._processes = [_start(replace(self.settings, rank=rank)) for rank in range(1, settings.tensor_parallel)]

    def whereabouts(self) -> str:
        """How they have ended; none has if all are merely slow."""
        codes = {rank: _code(process) for rank, process in enumerate(self._processes, 1)}
        ended = [f"rank {rank} ended with code {code}" for rank, code in codes.items() if code is not None]
        return ", ".join(ended) or "all of them still run, so one was too slow"

    def stop(self, *, farewell: bool = True) -> None:
        """End those that are left, at once or after a moment for their own ending."""
        for process in self._processes:
            try:
                process.wait(_FAREWELL_S if farewell else 0)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        self._folder.cleanup()


def threads_of(settings: VerifierSettings) -> int:
    """Of one rank: those that share a machine share its cores."""
    if settings.threads or settings.tensor_parallel == 1 or settings.rendezvous:
        return settings.threads
    return max(1, len(os.sched_getaffinity(0)) // settings.tensor_parallel)


def _check(settings: VerifierSettings) -> None:
    if settings.tensor_parallel < 1:
        raise InvalidRequest(f"tensor_parallel: {settings.tensor_parallel} ranks can't serve; set 1 or more.")
    if not 0 <= settings.rank < settings.tensor_parallel:
        raise InvalidRequest(f"rank: {settings.rank} is none of {settings.tensor_parallel}; count from 0.")
    if settings.rank and not settings.rendezvous:
        raise InvalidRequest("rank: only rank 0 starts others; set rendezvous=tcp://host:port of rank 0.")
    if settings.rendezvous and not settings.rendezvous.startswith(("tcp://", "file:///")):
        raise InvalidRequest(f"rendezvous: {settings.rendezvous!r} is no place to meet; set tcp://host:port of rank 0.")


def _meet(settings: VerifierSettings) -> Ranks:
    return Ranks(settings.rank, settings.tensor_parallel, settings.rendezvous, settings.rank_timeout_s)


def _start(settings: VerifierSettings) -> subprocess.Popen[bytes]:
    names = (*_SHARED, "rank", "rendezvous")
    own = [f"--set={name}={getattr(settings, name)}" for name in names]
    own += [
        f"--set=threads={threads_of(replace(settings, rendezvous=''))}",
        f"--set=server.log_level={settings.server.log_level}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "verifier_service", *own],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,  # a Ctrl-C is for rank 0, which passes it on
    )


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """Of a process that may be ending just now."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        return None
