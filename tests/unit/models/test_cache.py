"""The KV cache takes memory for the slots that are used, not for those that there may be."""

from __future__ import annotations

import numpy as np
import psutil
import torch

from paceline.models.attend import KeyValues


def test_slots_that_nobody_uses_take_no_memory() -> None:
    """128 MiB may be used; three quarters of it are a wide margin for whatever else moves in the process."""
    process = psutil.Process()
    before = process.memory_info().rss
    cache = KeyValues(64, 2048, (4, 64), torch.bfloat16)
    assert cache.keys.nbytes + cache.values.nbytes == 128 << 20
    assert process.memory_info().rss - before < 32 << 20
    assert cache.keys[63].count_nonzero() == cache.values[63].count_nonzero() == 0


def test_tensors_and_arrays_are_the_same_memory() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        cache = KeyValues(2, 8, (1, 8), dtype)
        cache.keys[1, 0, 3, 5] = 1.0
        cache.values[0, 0, 7, 2] = 1.0
        assert np.argwhere(cache.arrays[0]).tolist()[0] == [1, 0, 3, 5]
        assert np.argwhere(cache.arrays[1]).tolist()[0] == [0, 0, 7, 2]
        assert cache.keys.dtype == cache.values.dtype == dtype
