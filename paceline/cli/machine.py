"""What made a measurement: versions, command and machine, as every written result names them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from paceline import __version__

LIBRARIES = ("torch", "transformers", "numba", "grpcio")


def provenance() -> dict[str, object]:
    """For the head of a JSON result."""
    return {
        "version": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv[1:]),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _installed(name))},
    }


def command(arguments: Sequence[str]) -> list[str]:
    """What was typed, for others to read: of absolute paths only what they mean here, or their last part."""
    return ["paceline", *(_without_place(one) for one in arguments)]


def _without_place(argument: str) -> str:
    head, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    return f"{head}{equals}{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8", "replace").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
