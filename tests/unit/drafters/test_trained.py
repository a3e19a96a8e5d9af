"""Exported drafters are read back as they were, or refused with the file and the remedy; nothing half-written stays."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest, NotFound, ResourceExhausted
from paceline.drafters import create_drafter
from paceline.drafters.description import DESCRIPTION
from paceline.drafters.trained import TOKEN_IDS, WEIGHTS, check_weights, read_trained, write_trained
from tests.support.tiny_drafters import make_trained, write_drafter
from tests.support.tiny_models import VOCAB


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_drafter(tmp_path / "tiny")


def load(directory: Path) -> None:
    create_drafter(DrafterSettings(drafter="mtp", model=str(directory), dtype="float32"))


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((directory / DESCRIPTION).read_text("utf-8"))
    change(content)
    (directory / DESCRIPTION).write_text(json.dumps(content), "utf-8")


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Other weights, described rightly."""
    trained = read_trained(directory, "mtp")
    weights = dict(trained.weights)
    change(weights)
    write_trained(directory, trained.about, weights)


def test_what_was_written_is_read(directory: Path) -> None:
    expected, found = make_trained(), read_trained(directory, "mtp")
    assert len(found.about.weights_digest) == 64
    assert dataclasses.replace(found.about, weights_digest="") == expected.about
    assert set(found.weights) == set(expected.weights)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
    assert found.token_ids.dtype == torch.int64
    load(directory)


def test_writing_again_replaces_all(directory: Path) -> None:
    (directory / "notes.txt").write_text("of the former drafter", "utf-8")
    write_drafter(directory, seed=1)
    assert sorted(file.name for file in directory.iterdir()) == [DESCRIPTION, WEIGHTS]
    assert torch.equal(read_trained(directory, "mtp").weights["join.weight"], make_trained(1).weights["join.weight"])
    assert [one.name for one in directory.parent.iterdir()] == ["tiny"]


def test_equal_drafters_are_equal_files(tmp_path: Path) -> None:
    for name in (DESCRIPTION, WEIGHTS):
        files = [(write_drafter(tmp_path / other / "tiny") / name).read_bytes() for other in "ab"]
        assert files[0] == files[1]


@pytest.mark.parametrize("failing", ["write_bytes", "write_text", "replace"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_failure_to_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, is_new: bool
) -> None:
    directory = tmp_path / "tiny"
    if not is_new:
        write_drafter(directory)
    before = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "replace":
            real = os.replace
            patch.setattr(os, "replace", lambda a, b: fail() if Path(a).name == "new" else real(a, b))
        else:
            patch.setattr(Path, failing, fail)
        with pytest.raises(ResourceExhausted, match=r"tiny can't be written .*No space left.*; free some space"):
            write_drafter(directory, seed=1)
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert [one.name for one in tmp_path.iterdir()] == ([] if is_new else ["tiny"])


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ResourceExhausted, match="file/tiny can't be written"):
        write_drafter(tmp_path / "file" / "tiny")


def test_a_directory_without_a_drafter(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match=f"{directory.name} has no {DESCRIPTION}; give a directory that paceline"):
            load(directory)


def test_no_directory_at_all() -> None:
    with pytest.raises(InvalidRequest, match="set it to a directory that paceline train has made"):
        create_drafter(DrafterSettings(drafter="mtp"))


def test_a_drafter_of_another_kind_names_the_setting(directory: Path) -> None:
    edit(directory, lambda content: content.update(kind="other"))
    with pytest.raises(InvalidRequest, match="holds a drafter of kind 'other'; set drafter=other"):
        load(directory)


def test_weights_that_are_missing(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "weights.bin")
    with pytest.raises(NotFound, match=f"has no {WEIGHTS}; pickled weights are never read, export it again"):
        load(directory)


def test_weights_that_were_edited(directory: Path) -> None:
    blob = bytearray((directory / WEIGHTS).read_bytes())
    blob[-1] ^= 1
    (directory / WEIGHTS).write_bytes(blob)
    with pytest.raises(InvalidRequest, match=f"{WEIGHTS} is not the file that {DESCRIPTION} describes; export"):
        load(directory)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


@pytest.mark.parametrize("content", ["pickle", "truncated", "empty"])
@pytest.mark.parametrize("is_described", [True, False])
def test_a_file_that_holds_no_tensors_is_refused_and_never_unpickled(
    directory: Path, content: str, is_described: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    file = directory / WEIGHTS
    blob = {"pickle": pickle.dumps(_Trap()), "truncated": file.read_bytes()[:-9], "empty": b""}[content]
    file.write_bytes(blob)
    if is_described:
        edit(directory, lambda about: about.update(weights_digest=hashlib.sha256(blob).hexdigest()))
    expected = "is no safetensors file" if is_described else "is not the file"
    with pytest.raises(InvalidRequest, match=f"{WEIGHTS} {expected}.*export it again"):
        load(directory)
    assert not Path("sprung").exists()


DESCRIPTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another format": (lambda about: about.update(format=2), "another format than 1"),
    "no format": (lambda about: about.pop("format"), "another format than 1"),
    "an unknown field": (lambda about: about.update(colour="red"), "no description.*colour"),
    "a missing field": (lambda about: about.pop("block"), "no description.*block"),
    "no target": (lambda about: about.pop("target"), "no description.*target"),
    "an unknown field of the target": (lambda about: about["target"].update(colour="red"), "no description.*colour"),
    "taps that are no numbers": (lambda about: about.update(taps=["low"]), "no description.*low"),
    "no curves": (lambda about: about.update(calibration=[]), "no description.*calibration"),
    "curves that are none": (lambda about: about.update(calibration=[[1.0]]), "no description"),
    "warm curves that are none": (lambda about: about.update(warm_calibration=[[1.0]]), "no description"),
    "no block": (lambda about: about.update(block=0), "no description.*block"),
    "a block in words": (lambda about: about.update(block="five"), "no description"),
    "sizes that are no numbers": (lambda about: about["shape"].update(mlp="48"), "no description.*sizes"),
    "sizes that are none": (lambda about: about.update(shape=[1, 2]), "no description"),
    "an unknown size": (lambda about: about["shape"].update(depth=2), "has sizes .*'depth'"),
    "a missing size": (lambda about: about["shape"].pop("mlp"), r"not \[.*'mlp'"),
    "another width": (lambda about: about["shape"].update(width=64), "its sizes ask for"),
    "more tokens": (lambda about: about["shape"].update(vocab=65), f"needs 65 different {TOKEN_IDS} below {VOCAB}"),
    "a smaller target": (lambda about: about["target"].update(vocab_size=50), f"{TOKEN_IDS} below 50"),
    "a wider target": (lambda about: about["target"].update(hidden_size=17), "48 features, not 3 hidden states of 17"),
    "other taps": (lambda about: about.update(taps=[1, 2]), "48 features, not 2 hidden states of 16"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_a_description_that_does_not_fit_is_refused(directory: Path, case: str) -> None:
    change, message = DESCRIPTIONS[case]
    edit(directory, change)
    with pytest.raises(InvalidRequest, match=message):
        load(directory)


@pytest.mark.parametrize("content", [b"", b"[1]", b'"text"', b"{", b"\xff\xfe", b"null"])
def test_a_description_that_is_no_json_object_names_the_file(directory: Path, content: bytes) -> None:
    (directory / DESCRIPTION).write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"{DESCRIPTION} is no description of a drafter .*; export it again"):
        load(directory)


WEIGHT_CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "one is missing": (lambda weights: weights.pop("join.weight"), "join.weight of shape None"),
    "one too many": (lambda weights: weights.update(extra=torch.zeros(2)), "extra of shape .* ask for None"),
    "another shape": (lambda weights: weights.update({"join.weight": torch.zeros(2, 2)}), r"join.weight of shape \(2"),
    "no token ids": (lambda weights: weights.pop(TOKEN_IDS), TOKEN_IDS),
    "token ids in disorder": (lambda weights: weights.update({TOKEN_IDS: weights[TOKEN_IDS].flip(0)}), "in order"),
    "a token id twice": (lambda weights: weights.update({TOKEN_IDS: weights[TOKEN_IDS] * 0}), "different"),
    "a negative token id": (lambda weights: weights.update({TOKEN_IDS: weights[TOKEN_IDS] - 2}), "in order"),
    "an id beyond the target": (lambda weights: weights.update({TOKEN_IDS: weights[TOKEN_IDS] + 2}), "below 97"),
}


@pytest.mark.parametrize("case", WEIGHT_CHANGES)
def test_weights_that_do_not_fit_the_sizes_are_refused(directory: Path, case: str) -> None:
    change, message = WEIGHT_CHANGES[case]
    rewrite(directory, change)
    with pytest.raises(InvalidRequest, match=f"(?s)drafter tiny .*{message}"):
        load(directory)


def test_weights_are_compared_by_name_and_shape() -> None:
    about = make_trained().about
    check_weights(about, {"a": torch.zeros(2, 3)}, {"a": [2, 3]})
    for weights in ({}, {"a": torch.zeros(3, 2)}, {"b": torch.zeros(2, 3)}):
        with pytest.raises(InvalidRequest, match="export it again"):
            check_weights(about, weights, {"a": (2, 3)})


def test_weights_in_half_the_bits_are_read_too(directory: Path) -> None:
    weights = make_trained().weights
    half = {name: one if name == TOKEN_IDS else one.bfloat16() for name, one in weights.items()}
    write_trained(directory, make_trained().about, half)
    load(directory)


def test_other_files_beside_the_drafter_do_not_matter(directory: Path) -> None:
    save_file({"a": torch.zeros(1)}, directory / "model.safetensors")
    load(directory)
