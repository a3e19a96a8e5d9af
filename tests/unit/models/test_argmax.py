"""The likeliest token: equal to the specification's, whatever the type, size and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.models.argmax import BLOCK, first_max
from paceline.models.attend import as_array


@settings(deadline=None)  # the kernel may be compiled first
@given(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 2.0, float("-inf")]), min_size=1, max_size=9))
def test_ties_go_to_the_lowest_id(values: list[float]) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        assert first_max(as_array(torch.tensor(values, dtype=dtype))) == int(np.argmax(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 49_152])
def test_it_is_the_first_largest_of_random_rows(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for _ in range(20):
        row = torch.randn(size, generator=generator).to(dtype)
        row[torch.randint(size, (3,), generator=generator)] = row.max()
        assert first_max(as_array(row)) == int(np.argmax(row.float().numpy()))
