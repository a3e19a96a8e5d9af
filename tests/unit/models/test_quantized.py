"""Products with bytes: what was quantised is multiplied exactly, and each row keeps its bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from paceline.core.errors import InvalidRequest
from paceline.models import quantized
from paceline.models.invariance import settle
from paceline.models.loading import load
from paceline.models.packed import PackedLinear, is_quantized
from paceline.models.quantized import GROUP, add_bytes, byte_product, byte_product_by, byte_tiles, quantize
from paceline.models.runner import ModelRunner
from paceline.models.tiles import LANES, ROWS
from paceline.models.views import as_array
from tests.support.tiny_models import random_tokens, run, write_model

SHAPES = [(LANES, GROUP), (97, 300), (40, 63)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def widened(x: torch.Tensor) -> torch.Tensor:
    """Rows as they are after they were quantised, in double precision."""
    scaled, scales = quantize(1, as_array(x))
    groups = torch.from_numpy(scaled).double().unflatten(1, (-1, GROUP)) - 128
    return (groups * torch.from_numpy(scales).double()[..., None]).flatten(1)


def weights_of(weight: torch.Tensor) -> torch.Tensor:
    """[out, groups * GROUP] as they are in the tiles, in double precision."""
    tiles = byte_tiles(weight)
    lanes = torch.from_numpy(tiles.weights).double().transpose(2, 3).flatten(3)  # [tiles, groups, LANES, GROUP]
    return (lanes * torch.from_numpy(tiles.scales).double()[..., None]).transpose(1, 2).flatten(2).flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_keep_their_place_within_half_a_step(dtype: torch.dtype) -> None:
    x = random(7, 150, dtype=dtype)
    x[2, 64:128] = 0
    steps = torch.nn.functional.pad(x.float(), (0, 42)).unflatten(1, (-1, GROUP)).abs().amax(-1) / 127
    error = (widened(x)[:, :150] - x.double()).abs()
    assert (error <= 0.501 * steps.repeat_interleave(GROUP, 1)[:, :150]).all()
    assert (widened(x)[2, 64:128] == 0).all()
    w = weights_of(x.float())[:7]
    assert ((w[:, :150] - x.double()).abs() <= 0.501 * steps.repeat_interleave(GROUP, 1)[:, :150]).all()


@pytest.mark.parametrize(("outside", "inside"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 2, ROWS, 30])
def test_a_linear_layer_multiplies_what_was_quantised(outside: int, inside: int, num_rows: int) -> None:
    x, weight, bias = random(num_rows, inside), random(outside, inside, seed=1), random(outside, seed=2)
    expected = widened(x) @ weights_of(weight)[:outside].T + bias.double()
    found = PackedLinear(weight, bias, quantized=True)(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_among_others_has_the_same_bits(dtype: torch.dtype) -> None:
    layer, x = PackedLinear(random(97, 300, dtype=dtype), quantized=True), random(31, 300, seed=1, dtype=dtype)
    whole = layer(x)
    for size in (1, 2, 5, ROWS, ROWS + 1):
        assert torch.equal(torch.cat([layer(part) for part in x.split(size)]), whole)


def test_processors_without_the_instruction_give_the_same_bits() -> None:
    slow = byte_product_by(add_bytes)

    @njit
    def both(scaled, scales, weights, factors, starts, fast_out, slow_out) -> None:  # type: ignore[no-untyped-def]
        byte_product(len(scaled), 0, (scaled, scales, weights, factors, starts, fast_out))
        slow(len(scaled), 0, (scaled, scales, weights, factors, starts, slow_out))

    scaled, scales = quantize(1, as_array(random(ROWS, 3 * GROUP)))
    tiles = byte_tiles(random(LANES, 3 * GROUP, seed=1))
    outs = [np.zeros((ROWS, LANES), np.float32) for _ in range(2)]
    both(scaled, scales, tiles.weights[0], tiles.scales[0], tiles.starts[0], *outs)
    assert np.array_equal(*outs)
    assert np.abs(outs[0]).min() > 0


@pytest.mark.parametrize(("family", "config"), [("llama", {}), ("qwen3", {"head_dim": 16})])
def test_a_model_of_bytes_is_exact_close_to_itself_and_has_numerics_of_its_own(
    family: str, config: dict[str, int], tmp_path: Path
) -> None:
    directory = write_model(tmp_path / "model", family, **config)
    plain, small = (
        ModelRunner(load(directory, torch.float32, max_context=128), 2, quantized=wanted) for wanted in (False, True)
    )
    assert settle(small).is_exact
    assert small.numerics_id != plain.numerics_id
    assert quantized.PLAN in small.kernel_plan
    assert small.weights_bytes < plain.weights_bytes
    tokens = random_tokens(40)
    found, expected = run(small, tokens, [40]), run(plain, tokens, [40])
    assert (found - expected).square().mean() < 0.05 * expected.var()


def test_other_kinds_of_quantisation_are_refused_by_name() -> None:
    assert [is_quantized(one) for one in ("", "int8")] == [False, True]
    with pytest.raises(InvalidRequest, match="'int4' is not known; use int8"):
        is_quantized("int4")
