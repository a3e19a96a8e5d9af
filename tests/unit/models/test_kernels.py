"""Row kernels against plain torch in double precision, and each row against itself among others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paceline.models.kernels import rms_norm, silu_gate
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8, 24, 1000])
def test_the_gate_is_silu_times_up(dtype: torch.dtype, size: int) -> None:
    gate_up = 4 * random(7, 2 * size, dtype=dtype)
    gate_up[0, :4] = torch.tensor([0.0, 90.0, -90.0, -1e30])
    out = torch.empty(7, size, dtype=dtype)
    silu_gate(as_array(gate_up), as_array(out))
    gate, up = gate_up.double().chunk(2, dim=-1)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(out.double(), expected, rtol=2 * TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_gate_of_a_row_do_not_depend_on_the_other_rows(dtype: torch.dtype) -> None:
    x, weight = random(40, 90, dtype=dtype), random(90, dtype=dtype, seed=1)
    whole, gated = norm(x, weight), torch.empty(40, 45, dtype=dtype)
    silu_gate(as_array(x), as_array(gated))
    for start, end in ((0, 1), (3, 5), (39, 40), (7, 40)):
        part = torch.empty(end - start, 45, dtype=dtype)
        silu_gate(as_array(x[start:end]), as_array(part))
        assert torch.equal(part, gated[start:end])
        assert torch.equal(norm(x[start:end], weight), whole[start:end])
