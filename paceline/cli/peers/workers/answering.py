"""The main program of every worker: answers line by line. Standard output belongs to the answers alone."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1

Generate = Callable[[list[list[int]], int], dict[str, Any]]
Load = Callable[[dict[str, Any]], tuple[dict[str, Any], Generate]]


def main(name: str) -> None:
    """Answer until the input ends, or whoever asked dies, even while this process is frozen."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # engines print to standard output, from C++ too
    answer(sys.stdin, answers, _loader(name))


def _loader(name: str) -> Load:
    """From the file, since neither Paceline nor this folder is on the path: the folder could hide other modules."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise SystemExit(f"there is no worker {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Load = module.load
    return load


def answer(lines: Iterable[str], answers: TextIO, load: Load) -> None:
    """One answer per line."""
    generate: Generate | None = None
    for line in lines:
        try:
            asked = json.loads(line)
            if asked["verb"] == "load":
                reply, generate = load(asked)
            elif generate is None:
                reply = {"error": "nothing is loaded yet"}
            else:
                reply = generate(asked["prompts"], asked["max_tokens"])
        except Exception as error:  # an engine's errors are of any kind; whoever asked must hear of them
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            sys.excepthook(type(error), error, error.__traceback__)
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
