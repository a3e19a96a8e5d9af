"""Row kernels against plain torch in double precision, and each row against itself among others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import get_num_threads

from paceline.models.kernels import rms_norm
from paceline.models.linear import gated_product
from paceline.models.packed import interleaved, tiled, wide
from paceline.models.views import as_array

DTYPES = [torch.bfloat16, torch.float32]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float32: 2e-6}
"""One rounding to the type, relative to values of about 1."""


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    rms_norm(as_array(x), as_array(weight), np.float32(1e-5), as_array(out))
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 24, 576])
def test_the_norm_is_the_root_mean_square_norm(dtype: torch.dtype, size: int) -> None:
    x, weight = random(5, size, dtype=dtype), random(size, dtype=dtype, seed=1)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(norm(x, weight).double(), expected, rtol=2 * TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """[rows, size] of gates and what they gate [rows, 2 size], which come out of a product with ones."""
    out = torch.empty(len(gate_up), gate_up.shape[1] // 2, dtype=gate_up.dtype)
    weight = interleaved(torch.eye(gate_up.shape[1], dtype=gate_up.dtype).chunk(2))
    bias = wide(torch.zeros(len(weight)))
    gated_product(get_num_threads(), as_array(gate_up), tiled(weight), bias, as_array(out))
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 24, 1000])
def test_the_gate_is_silu_times_up(dtype: torch.dtype, size: int) -> None:
    gate_up = 4 * random(7, 2 * size, dtype=dtype)
    gate_up[0, :4] = torch.tensor([0.0, 90.0, -90.0, -1e30])
    out = gated(gate_up)
    gate, up = gate_up.double().chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(out.double(), expected, rtol=2 * TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_gate_of_a_row_do_not_depend_on_the_other_rows(dtype: torch.dtype) -> None:
    x, weight = random(40, 90, dtype=dtype), random(90, dtype=dtype, seed=1)
    whole, all_gated = norm(x, weight), gated(x)
    for start, end in ((0, 1), (3, 5), (39, 40), (7, 40)):
        assert torch.equal(gated(x[start:end]), all_gated[start:end])
        assert torch.equal(norm(x[start:end], weight), whole[start:end])
