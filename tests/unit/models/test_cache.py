"""The KV cache takes memory for the slots that are used, not for those that there may be."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch

from paceline.models.attend import KeyValues

PRESENT = np.uint64(1 << 63)


def pages_in_memory(tensor: torch.Tensor) -> int:
    """How many of a tensor's pages the system has given (proc(5), pagemap)."""
    first, last = tensor.data_ptr() // mmap.PAGESIZE, (tensor.data_ptr() + tensor.nbytes - 1) // mmap.PAGESIZE
    with Path("/proc/self/pagemap").open("rb") as pages:
        pages.seek(first * 8)
        entries = np.frombuffer(pages.read((last - first + 1) * 8), np.uint64)
    return int(np.count_nonzero(entries & PRESENT))


def test_slots_that_nobody_uses_take_no_memory() -> None:
    cache = KeyValues(64, 2048, (4, 64), torch.bfloat16)
    assert cache.keys.nbytes + cache.values.nbytes == 128 << 20
    assert pages_in_memory(cache.keys) == pages_in_memory(cache.values) == 0


def test_a_slot_that_is_used_takes_its_own_memory_only() -> None:
    """Huge pages are of 2 MiB, a slot's keys are of 1 MiB."""
    cache = KeyValues(64, 2048, (4, 64), torch.bfloat16)
    cache.values[3] = 1.0
    assert pages_in_memory(cache.keys) == 0
    assert 256 <= pages_in_memory(cache.values) <= 1024
    assert cache.values.count_nonzero() == cache.values[3].numel()
    assert cache.keys.count_nonzero() == 0


def test_tensors_and_arrays_are_the_same_memory() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        cache = KeyValues(2, 8, (1, 8), dtype)
        cache.keys[1, 0, 3, 5] = 1.0
        cache.values[0, 0, 7, 2] = 1.0
        assert np.argwhere(cache.arrays[0]).tolist()[0] == [1, 0, 3, 5]
        assert np.argwhere(cache.arrays[1]).tolist()[0] == [0, 0, 7, 2]
        assert cache.keys.dtype == cache.values.dtype == dtype
