"""Where a model's files are: what is a directory is taken, what was prepared is found, all else says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.core.errors import NotFound
from paceline.text.resolve import cache_root, model_directory, prepared_directory


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prepared(source: str) -> Path:
    directory = prepared_directory(source)
    directory.mkdir(parents=True)
    (directory / "tokenizer.json").write_text("{}", "utf-8")
    return directory


def test_the_cache_is_where_the_variable_says_else_at_home() -> None:
    assert cache_root({"PACELINE_CACHE": "/somewhere"}) == Path("/somewhere")
    assert cache_root({}) == cache_root({"PACELINE_CACHE": ""}) == Path.home() / ".cache" / "paceline"


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    assert model_directory(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["smollm2", "org/model", "model.gguf"])
def test_what_was_prepared_is_found_by_its_name(cache: Path, source: str) -> None:
    directory = prepared(source)
    assert directory.parent == cache / "models"
    assert model_directory(source) == directory


def test_files_of_the_same_name_in_different_places_are_kept_apart(tmp_path: Path) -> None:
    first, second = (prepared_directory(str(tmp_path / name / "model.gguf")) for name in ("a", "b"))
    assert first != second
    assert first == prepared_directory(str(tmp_path / "a" / "model.gguf"))


def test_a_file_that_was_replaced_is_another_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    before = prepared_directory(str(file))
    assert prepared_directory(str(file)) == before
    file.write_bytes(b"three")
    assert prepared_directory(str(file)) != before


@pytest.mark.parametrize("source", ["../../etc", "a/../b", "/no/such/place"])
def test_no_name_leads_out_of_the_cache(cache: Path, source: str) -> None:
    assert prepared_directory(source).parent == cache / "models"


@pytest.mark.parametrize("source", ["", "nobody", "org/model", "/no/such/place", "model.gguf"])
def test_what_is_not_there_names_the_command_that_prepares_it(source: str) -> None:
    with pytest.raises(NotFound, match=rf"run: paceline prepare {source}$"):
        model_directory(source)


def test_a_preparation_that_was_cut_short_does_not_count(cache: Path) -> None:
    prepared_directory("smollm2").mkdir(parents=True)
    with pytest.raises(NotFound):
        model_directory("smollm2")
