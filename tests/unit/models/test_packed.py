"""Packed linears and activations: right within rounding, and a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from paceline.models.packed import PackedLinear, RowByRow, pack
from paceline.models.tiles import ROWS

DTYPES = [torch.bfloat16, torch.float32]


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 2, ROWS, ROWS + 1, 100])
def test_it_is_a_linear_layer(dtype: torch.dtype, has_bias: bool, num_rows: int) -> None:
    x, weight = random(num_rows, 48, dtype=dtype), random(40, 48, dtype=dtype, seed=1)
    bias = random(40, dtype=dtype, seed=2) if has_bias else None
    expected = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    with torch.inference_mode():
        ours = PackedLinear(weight, bias)(x)
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)


def test_leading_dimensions_are_kept() -> None:
    layer = PackedLinear(random(5, 16, dtype=torch.float32))
    x = random(2, 3, 16, dtype=torch.float32, seed=1)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x.view(6, 16)).view(2, 3, 5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inside", "outside"), [(576, 960), (1536, 576), (64, 97), (63, 40)])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, 31, 33, 64])
def test_a_row_among_others_has_the_same_bits(dtype: torch.dtype, inside: int, outside: int, size: int) -> None:
    layer = PackedLinear(random(outside, inside, dtype=dtype) / inside**0.5)
    x = random(66, inside, dtype=dtype, seed=1)
    with torch.inference_mode():
        whole = layer(x)
        for start in range(0, 66 - size, size):
            assert torch.equal(layer(x[start : start + size]), whole[start : start + size])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "relu2"])
def test_an_activation_gives_a_row_the_same_bits_whatever_its_neighbours_and_the_threads(
    dtype: torch.dtype, name: str
) -> None:
    """Plain activations do not: torch computes the ends of a thread's share with other code."""
    activation, x = RowByRow(ACT2FN[name]), 2 * random(60, 1000, dtype=dtype)
    threads, outputs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outputs.append(activation(x))
            outputs += [torch.cat([activation(part) for part in x.split(size)]) for size in (1, 3, 33)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, outputs[0]) for one in outputs)
    torch.testing.assert_close(outputs[0], ACT2FN[name](x))


def test_packing_swaps_every_linear_layer_and_activation_in_place() -> None:
    module = nn.ModuleDict(
        {
            "inner": nn.ModuleDict({"linear": nn.Linear(16, 8), "conv": Conv1D(8, 16), "act": ACT2FN["silu"]}),
            "head": nn.Linear(8, 3, bias=False),
            "norm": nn.LayerNorm(8),
        }
    )
    x = random(4, 16, dtype=torch.float32)
    with torch.inference_mode():
        expected = [module["inner"][name](x) for name in ("linear", "conv", "act")]
        pack(module)
        for name, values in zip(("linear", "conv", "act"), expected, strict=True):
            torch.testing.assert_close(module["inner"][name](x), values)
    kinds = [type(module["inner"][name]) for name in ("linear", "conv", "act")]
    assert kinds == [PackedLinear, PackedLinear, RowByRow]
    assert type(module["head"]) is PackedLinear
    assert type(module["norm"]) is nn.LayerNorm
