"""The GGUF file that a name stands for; one that comes in pieces is put together for as long as it is read."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paceline.config.packaged import PACKAGES, Package
from paceline.core.errors import InvalidRequest, NotFound


@contextlib.contextmanager
def gguf_file(source: str, scratch: Path) -> Iterator[Path | None]:
    """A file's path or a packaged model's file; None for any other name. Pieces are joined in the folder ``scratch``.

    Raises ``NotFound`` and ``InvalidRequest``.
    """
    package = PACKAGES.get(source)
    if package is None:
        yield _given(source)
        return
    pieces = _pieces(source, package)
    if len(pieces) == 1:
        yield pieces[0]
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield _join(source, package, pieces, Path(folder))


def _given(source: str) -> Path | None:
    if not source.endswith(".gguf"):
        return None
    if not Path(source).is_file():
        raise NotFound(f"model: there is no file {source}; check the path.")
    return Path(source)


def _pieces(name: str, package: Package) -> list[Path]:
    found = []
    for module in package.modules:
        spec = importlib.util.find_spec(module)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = sorted(file for folder in folders for file in Path(folder).rglob(package.pattern))
        if not files:
            raise NotFound(f"model: the packaged model is missing ({name}); run: {package.command}")
        found.append(files[0])
    return found


def _join(name: str, package: Package, pieces: list[Path], folder: Path) -> Path:
    whole = folder / f"{name}.gguf"
    with whole.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, out)
    with whole.open("rb") as written:
        if hashlib.file_digest(written, "sha256").hexdigest() != package.sha256:
            raise InvalidRequest(f"model: the files of {name} are damaged; run: {package.command} --force-reinstall")
    return whole
