"""Memory of a network is counted from its tensors and arrays, each piece once, sessions' caches apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paceline.models.attend import KeyValues
from paceline.models.footprint import tensor_bytes, token_bytes, weights_bytes
from paceline.models.packed import PackedLinear
from paceline.models.views import as_array
from tests.support.tiny_models import make_runner, write_model

SLOTS, CAPACITY = 3, 64


def test_tensors_and_arrays_are_found_wherever_they_are() -> None:
    held = {"a": [torch.zeros(3, 4), (np.zeros(5, np.float32),)], "b": nn.Linear(2, 3), "c": "text"}
    assert weights_bytes(held) == 48 + 20 + 24 + 12
    assert weights_bytes(PackedLinear(torch.zeros(64, 4, dtype=torch.bfloat16))) == 64 * 4 * 2 + 64 * 4


def test_memory_that_several_share_counts_once() -> None:
    whole = torch.zeros(8, 4)
    assert weights_bytes([whole, whole, whole[2:], whole.T, as_array(whole)]) == whole.nbytes


def test_caches_are_no_weights_and_have_a_size_per_position() -> None:
    cache = KeyValues(SLOTS, CAPACITY, (2, 8), torch.bfloat16)
    assert weights_bytes([cache]) == 0
    assert (
        token_bytes([cache, cache]) == cache.row_bytes == (cache.keys.nbytes + cache.values.nbytes) // SLOTS // CAPACITY
    )


@dataclass(slots=True)
class Slotted:
    tensor: torch.Tensor


def test_objects_of_others_are_not_looked_into() -> None:
    assert weights_bytes(Slotted(torch.zeros(4))) == 0


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_model_takes_its_parameters_and_what_it_has_doubled(family: str, tmp_path: Path) -> None:
    runner = make_runner(write_model(tmp_path / "model", family))
    stored = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    assert 0.9 * stored < runner.weights_bytes < 3.0 * stored  # tiles of such a small model are padded much
    assert runner.token_bytes > 0


def test_small_tensors_are_added_up() -> None:
    assert tensor_bytes(torch.zeros(3), None, torch.zeros(2, 2, dtype=torch.bfloat16)) == 20
