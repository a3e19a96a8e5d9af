"""The inner loop: right within rounding, the same for any rows, and right where there is no dot product of pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba import njit
from numpy.typing import NDArray

from paceline.models import tiles
from paceline.models.packed import tiled
from paceline.models.tiles import LANES, ROWS, product_by
from paceline.models.views import as_array

DEPTH = 90
Product = Callable[[torch.Tensor, torch.Tensor], NDArray[np.float32]]


def compiled(add: object) -> Product:
    """A function of x [rows, DEPTH] and weight [LANES, DEPTH]."""
    product = product_by(add)

    @njit
    def run(count, x, tile, out) -> None:  # type: ignore[no-untyped-def]
        product(count, 0, (x, tile, out))

    def multiply(x: torch.Tensor, weight: torch.Tensor) -> NDArray[np.float32]:
        out = np.zeros((ROWS, LANES), np.float32)
        run(len(x), as_array(x.contiguous()), tiled(weight)[0], out)
        return out[: len(x)]

    return multiply


@pytest.fixture(scope="module")
def widened() -> Product:
    return compiled(tiles.add_widened)


def numbers(rows: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, DEPTH, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.mark.parametrize("count", range(1, ROWS + 1))
def test_without_a_dot_product_of_pairs_it_adds_one_number_after_the_other(count: int, widened: Product) -> None:
    x, weight = numbers(count, torch.bfloat16), numbers(LANES, torch.bfloat16)
    expected = x.double() @ weight.double().T
    assert np.abs(widened(x, weight) - expected.numpy()).max() < 2e-5


def test_a_row_has_the_same_bits_among_any_others(widened: Product) -> None:
    x, weight = numbers(ROWS, torch.bfloat16), numbers(LANES, torch.bfloat16)
    whole = widened(x, weight)
    for count in range(1, ROWS):
        for first in range(ROWS - count + 1):
            assert np.array_equal(widened(x[first : first + count], weight), whole[first : first + count])


def test_sums_along_the_depth_are_exact_where_floats_are(widened: Product) -> None:
    """Small integers: every order of additions gives the same, so the order can't hide a number left out."""
    x, weight = (numbers(rows, torch.float32).mul(4).round() for rows in (5, LANES))
    expected = (x.double() @ weight.double().T).numpy()
    assert np.array_equal(widened(x.bfloat16(), weight.bfloat16()), expected)
    assert np.array_equal(compiled(tiles.add_float)(x, weight), expected)
