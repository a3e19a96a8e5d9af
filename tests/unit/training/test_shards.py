"""Samples on disk: every field comes back, a shard is whole or not there, and what is done is not done again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.types import SamplingParams
from paceline.training.generate import Sample
from paceline.training.shards import ShardWriter, done_prompts, read_shard, shard_files
from tests.support.full_disk import full_disk
from tests.support.tiny_texts import are_equal, make_sample

SAMPLES = [
    make_sample(20, 6, 2, seed=1),
    make_sample(7, 1, 0, seed=2, temperature=0.8),
    make_sample(30, 29, 21, seed=3, temperature=1.7),
    make_sample(9, 6, 0, seed=4),
]


def write(directory: Path, samples: list[Sample], first: int = 0) -> None:
    writer = ShardWriter(directory)
    for index, sample in enumerate(samples):
        writer.add(first + index, sample)
    writer.close()


def read(directory: Path) -> list[Sample]:
    return [one for file in shard_files(directory) for one in read_shard(file)]


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_every_field_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "data", SAMPLES)
    found = read(tmp_path / "data")
    assert len(found) == len(SAMPLES)
    assert all(are_equal(one, other) for one, other in zip(found, SAMPLES, strict=True))


def test_a_text_that_was_served_keeps_its_law(tmp_path: Path) -> None:
    law = SamplingParams(temperature=0.8, top_k=5, banned_tokens=(3,), seed=2**64 - 1)
    served = [dataclasses.replace(SAMPLES[1], law=law, seed=0), SAMPLES[0]]
    write(tmp_path, served)
    assert all(are_equal(one, other) for one, other in zip(read(tmp_path), served, strict=True))


@pytest.mark.parametrize(
    "missing", [("features",), ("top_ids", "top_logprobs"), ("features", "top_ids", "top_logprobs")]
)
def test_what_was_not_kept_is_not_there(tmp_path: Path, missing: tuple[str, ...]) -> None:
    bare = [dataclasses.replace(one, **dict.fromkeys(missing)) for one in SAMPLES]
    write(tmp_path, bare)
    assert all(are_equal(one, other) for one, other in zip(read(tmp_path), bare, strict=True))


def test_a_full_shard_is_written_at_once_and_the_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.training.shards.SAMPLES", 3)
    writer = ShardWriter(tmp_path)
    for index, sample in enumerate(SAMPLES):
        writer.add(index, sample)
    assert names(tmp_path) == ["00000.safetensors"]
    writer.close()
    writer.close()
    assert names(tmp_path) == ["00000.safetensors", "00001.safetensors"]
    assert [one.seed for one in read(tmp_path)] == [1, 2, 3, 4]


def test_done_prompts_are_those_on_disk(tmp_path: Path) -> None:
    assert done_prompts(tmp_path / "nowhere") == {}
    write(tmp_path, SAMPLES[:2], first=4)
    write(tmp_path, SAMPLES[2:], first=0)
    prompts = [one.tokens[: one.prompt_length] for one in SAMPLES]
    assert done_prompts(tmp_path) == {4: prompts[0], 5: prompts[1], 0: prompts[2], 1: prompts[3]}


def test_a_second_writer_goes_on_behind_the_first(tmp_path: Path) -> None:
    for index, sample in enumerate(SAMPLES):
        write(tmp_path, [sample], first=index)
    assert [one.seed for one in read(tmp_path)] == [1, 2, 3, 4]


def test_a_shard_that_was_deleted_does_not_let_another_be_overwritten(tmp_path: Path) -> None:
    for index, sample in enumerate(SAMPLES[:3]):
        write(tmp_path, [sample], first=index)
    (tmp_path / "00001.safetensors").unlink()
    write(tmp_path, SAMPLES[3:], first=1)
    assert names(tmp_path) == ["00000.safetensors", "00002.safetensors", "00003.safetensors"]
    assert [one.seed for one in read(tmp_path)] == [1, 3, 4]
    assert set(done_prompts(tmp_path)) == {0, 1, 2}


def test_half_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, SAMPLES)
    (tmp_path / "00001.part").write_bytes(b"half")
    assert len(read(tmp_path)) == len(SAMPLES)
    assert len(done_prompts(tmp_path)) == len(SAMPLES)


def rewrite(file: Path, changes: dict[str, torch.Tensor | None]) -> None:
    with safe_open(file, "pt") as shard:
        columns = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 - not a mapping
    merged = {**columns, **changes}
    save_file({name: one for name, one in merged.items() if one is not None}, file)


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty", "foreign", "a column is missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path, SAMPLES)
    file = tmp_path / "00000.safetensors"
    if damage == "a column is missing":
        rewrite(file, {"lengths": None})
    elif damage == "foreign":
        save_file({"weight": torch.zeros(3)}, file)
    else:
        blob = file.read_bytes()
        file.write_bytes({"truncated": blob[:-5], "noise": b"\x7f" * 500, "empty": b""}[damage])
    message = r"data: .*00000\.safetensors is damaged .*; delete it, its prompts are done again"
    with pytest.raises(InvalidRequest, match=message):
        list(read_shard(file))
    with pytest.raises(InvalidRequest, match=message):
        done_prompts(tmp_path)


def test_a_full_disk_leaves_no_half_file_and_the_samples_are_kept(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add(0, make_sample(300, 6))
    with full_disk(), pytest.raises(ResourceExhausted, match=r"00000\.safetensors can't be written.*; free some space"):
        writer.close()
    assert names(tmp_path) == []
    writer.close()
    assert names(tmp_path) == ["00000.safetensors"]
