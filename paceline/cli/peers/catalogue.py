"""The engines that are known: their modes, which weights they read, where their environments are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.core.errors import InvalidRequest
from paceline.text.resolve import cache_root

FOLDER = ".venv-peers"
HINT = "not installed: make bench-peers"
_WORKERS = Path(__file__).parent / "workers"
_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Engine:
    """One foreign program."""

    worker: str
    """File in ``workers``."""
    modes: tuple[str, ...]
    reads_gguf: bool
    """The file that the model comes as; otherwise the directory that it was converted to."""
    environment: tuple[str, ...] = ()
    """NAME=value, for its best speed here."""
    is_ours: bool = False
    """Installed beside Paceline; otherwise in an environment of its own."""


ENGINES: Mapping[str, Engine] = {
    "transformers": Engine("transformers_engine", ("plain", "lookup", "assisted"), reads_gguf=False, is_ours=True),
    "llama.cpp": Engine("llama_cpp_engine", ("plain", "lookup"), reads_gguf=True),
    "openvino": Engine("openvino_engine", ("plain", "lookup"), reads_gguf=True),
    "vllm": Engine(
        "vllm_engine",
        ("plain", "lookup"),
        reads_gguf=False,
        environment=(
            "VLLM_ENABLE_V1_MULTIPROCESSING=0",
            "VLLM_CPU_KVCACHE_SPACE=1",
            "VLLM_CPU_NUM_OF_RESERVED_CPU=0",
            "VLLM_NO_USAGE_STATS=1",
        ),
    ),
}
_OFFLINE = ("HF_HUB_OFFLINE=1", "TOKENIZERS_PARALLELISM=false", "DO_NOT_TRACK=1")


@dataclass(frozen=True, slots=True)
class Peer:
    """One engine in one mode."""

    engine: str
    mode: str

    @property
    def name(self) -> str:
        """As it is asked for and shown."""
        return f"{self.engine}:{self.mode}"


def parse_peers(text: str) -> list[Peer]:
    """Comma-separated engines (all their modes) and engine:mode. Raises ``InvalidRequest``."""
    chosen: list[Peer] = []
    for part in (one.strip() for one in text.split(",") if one.strip()):
        engine, colon, mode = part.partition(":")
        modes = ENGINES[engine].modes if engine in ENGINES else ()
        if not modes or (colon and mode not in modes):
            known = ", ".join(f"{name} ({', '.join(one.modes)})" for name, one in ENGINES.items())
            raise InvalidRequest(f"peers: {part!r} is not an engine or engine:mode; there are {known}.")
        chosen += [Peer(engine, one) for one in ((mode,) if colon else modes)]
    return list(dict.fromkeys(chosen))


def parse_pythons(given: Sequence[str]) -> dict[str, Path]:
    """Of ENGINE=PATH each. Raises ``InvalidRequest``."""
    pythons = {}
    for one in given:
        engine, _, path = one.partition("=")
        if engine not in ENGINES or not Path(path).is_file():
            raise InvalidRequest(f"python: {one!r} is not ENGINE=PATH of a python with one of {', '.join(ENGINES)}.")
        pythons[engine] = Path(path).absolute()
    return pythons


def find_python(engine: str, given: Mapping[str, Path], folders: Sequence[Path] | None = None) -> Path | None:
    """Of the environment that has the engine: given, made by ``make bench-peers``, or in the cache; else None."""
    if engine in given:
        return given[engine]
    if ENGINES[engine].is_ours:
        return Path(sys.executable)
    places = environment_folders() if folders is None else folders
    # Only there once everything is installed, so that a half-made environment is none.
    return next((one / engine / "bin" / "python" for one in places if (one / engine / ".ready").is_file()), None)


def environment_folders() -> list[Path]:
    """Where environments are looked for, best first."""
    return [Path.cwd() / FOLDER, _ROOT / FOLDER, cache_root() / "peers"]


def program(engine: str, python: Path) -> list[str]:
    """The command of a worker: with its environment's variables, without the paths of ours."""
    settings = (*_OFFLINE, *ENGINES[engine].environment)
    worker = ENGINES[engine].worker
    # -P: a worker's folder is no place to import from.
    return ["env", "-u", "PYTHONPATH", *settings, str(python), "-P", str(_WORKERS / "answering.py"), worker]
