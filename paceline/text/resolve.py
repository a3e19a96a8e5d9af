"""Where a model's files are: a directory as it is, anything else in the cache that ``models.loading`` fills."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from paceline.core.errors import NotFound

PACKAGED = "smollm2"
"""The default model; ``config.packaged`` has all that come as packages."""


def cache_root(env: Mapping[str, str] = os.environ) -> Path:
    """$PACELINE_CACHE, else ~/.cache/paceline."""
    return Path(env.get("PACELINE_CACHE") or Path.home() / ".cache" / "paceline")


def prepared_directory(source: str) -> Path:
    """Where the model that ``source`` names is kept once it was converted."""
    if not source.endswith(".gguf"):
        return cache_root() / "models" / f"{source.replace('/', '--')}-v1"
    file = Path(source).resolve()
    key = [str(file), *_state(file)]
    return cache_root() / "models" / f"{file.stem}-{hashlib.sha256(':'.join(key).encode()).hexdigest()[:8]}"


def _state(file: Path) -> tuple[str, ...]:
    """Of a file that may be replaced: what is converted is known by size and time, too."""
    if not file.is_file():
        return ()
    found = file.stat()
    return str(found.st_size), str(found.st_mtime_ns)


def model_directory(source: str) -> Path:
    """A directory with config.json and tokenizer.json. Raises ``NotFound`` when nothing was prepared yet."""
    path = Path(source)
    if source and path.is_dir():
        return path
    prepared = prepared_directory(source)
    if (prepared / "tokenizer.json").is_file():
        return prepared
    raise NotFound(
        f"model: {source!r} is neither a directory nor prepared yet; give a directory with a model, a .gguf file, or "
        f"run: paceline prepare {source}"
    )
