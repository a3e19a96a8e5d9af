"""The likeliest token: equal to the specification's, whatever the type, size and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.models.argmax import BLOCK, best, first_max, log_total
from paceline.models.views import as_array


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


@settings(deadline=None)
@given(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 2.0]), min_size=1, max_size=9), st.integers(0, 12))
def test_the_best_come_in_order_and_of_equals_the_lowest_ids(values: list[float], count: int) -> None:
    row = torch.tensor(values)
    expected = np.argsort(-row.numpy(), kind="stable")[:count].tolist()
    for dtype in (torch.bfloat16, torch.float32):
        assert best(as_array(row.to(dtype)), count).tolist() == expected
    assert row.tolist() == values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1, 7, 8192])
def test_the_total_of_a_row_is_that_of_its_exponentials(dtype: torch.dtype, size: int) -> None:
    row = (5 * torch.randn(size, generator=torch.Generator().manual_seed(size)) + 20).to(dtype)
    assert log_total(as_array(row)) == pytest.approx(float(row.double().logsumexp(0)), abs=1e-4)
