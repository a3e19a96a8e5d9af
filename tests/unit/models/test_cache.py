"""The KV cache takes memory for the slots that are used, not for those that there may be."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.core.errors import Unsupported
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("d", [8, 32, 80])
def test_rows_come_out_as_they_were_put_and_touch_no_others(dtype: torch.dtype, d: int) -> None:
    cache, made = KeyValues(2, 70, (3, d), dtype), torch.Generator().manual_seed(0)
    keys, values = (torch.randn(40, 3, d, generator=made).to(dtype) for _ in range(2))
    cache.put_rows(1, 27, keys, values)
    cache.copy((1, 30), (0, 69))
    for stored, given, raw in zip(cache.rows(1, 27, 67), (keys, values), (cache.keys, cache.values), strict=True):
        assert torch.equal(stored, given)
        assert raw.count_nonzero() == 41 * 3 * d
        assert raw.dtype == dtype
    for stored, given in zip(cache.rows(0, 69, 70), (keys, values), strict=True):
        assert torch.equal(stored[0], given[3])


def test_heads_of_an_odd_size_are_refused() -> None:
    with pytest.raises(Unsupported, match="even"):
        KeyValues(1, 8, (1, 9), torch.bfloat16)
