"""Row kernels against plain torch in double precision, and each row against itself among others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from paceline.models.attend import KeyValues, Places, as_array, attend
from paceline.models.kernels import rms_norm, rope_and_store, silu_gate, store_kv

DTYPES = [torch.bfloat16, torch.float32]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float32: 2e-6}
"""One rounding to the type, relative to values of about 1."""


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=TOLERANCE[ours.dtype], atol=TOLERANCE[ours.dtype])


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


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """[rows, heads, d] as ``transformers`` rotates."""
    low, high = x.chunk(2, dim=-1)
    return x * cosine[:, None] + torch.cat((-high, low), dim=-1) * sine[:, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv", "d"), [(4, 2, 16), (3, 3, 8), (4, 1, 24)])
def test_queries_and_keys_are_rotated_and_values_kept(dtype: torch.dtype, heads: int, kv: int, d: int) -> None:
    rows = 6
    qkv, cache = random(rows, (heads + 2 * kv) * d, dtype=dtype), KeyValues(3, 10, (kv, d), dtype)
    cosine, sine = random(rows, d, dtype=dtype, seed=1).float(), random(rows, d, dtype=dtype, seed=2).float()
    places = Places(np.array([0, 0, 0, 2, 2, 1]), np.array([4, 5, 6, 0, 1, 9]))
    q = np.empty((rows, heads, d), np.float32)
    rope_and_store(as_array(qkv), cosine.numpy(), sine.numpy(), places.homes, cache.arrays, q)
    parts = qkv.view(rows, heads + 2 * kv, d)
    expected = rotate(parts[:, : heads + kv].float(), cosine, sine)
    tolerance = 3 * TOLERANCE[dtype]
    torch.testing.assert_close(torch.from_numpy(q), expected[:, :heads], rtol=tolerance, atol=tolerance)
    for row, (slot, position) in enumerate(zip(places.slots, places.positions, strict=True)):
        keys = cache.keys[slot, :, :, position].float()
        torch.testing.assert_close(keys, expected[row, heads:], rtol=tolerance, atol=tolerance)
        assert torch.equal(cache.values[slot, :, position], parts[row, heads + kv :])


def test_only_the_places_of_the_rows_are_written() -> None:
    cache = KeyValues(2, 6, (1, 8), torch.float32)
    k, v = random(1, 2, 8), random(1, 2, 8, seed=1)
    store_kv(as_array(k), as_array(v), (np.array([1, 1]), np.array([2, 3])), cache.arrays)
    assert torch.equal(cache.keys[1, 0, :, 2:4].T, k[0])
    assert torch.equal(cache.values[1, 0, 2:4], v[0])
    for tensor in (cache.keys, cache.values):
        assert torch.count_nonzero(tensor) == 16


class Attention:
    """A filled cache, queries at some places, and the textbook's answer."""

    def __init__(self, dtype: torch.dtype, *, heads: int = 4, kv: int = 2, d: int = 16, capacity: int = 70) -> None:
        self.dtype, self.group = dtype, heads // kv
        self.cache = KeyValues(3, capacity, (kv, d), dtype)
        self.cache.keys.copy_(random(3, kv, d, capacity, seed=1))
        self.cache.values.copy_(random(3, kv, capacity, d, seed=2))
        self.positions = np.array([0, 1, 6, 7, 8, 40, 69, 69, 15])
        self.slots = np.array([0, 2, 1, 1, 1, 0, 2, 0, 2])
        scaled: Any = random(len(self.slots), heads, d, seed=3).numpy() / math.sqrt(d)
        self.q = np.ascontiguousarray(scaled, np.float32)

    def run(self, window: int, rows: list[int] | None = None) -> torch.Tensor:
        chosen = list(range(len(self.slots))) if rows is None else rows
        out = torch.empty(len(chosen), self.q.shape[1] * self.q.shape[2], dtype=self.dtype)
        attend(self.q[chosen], self.cache, Places(self.slots[chosen], self.positions[chosen]), window, out)
        return out

    def expected(self, window: int) -> torch.Tensor:
        rows = []
        for q, slot, position in zip(self.q, self.slots, self.positions, strict=True):
            first = max(0, position + 1 - window) if window else 0
            seen = slice(first, position + 1)
            keys = self.cache.keys[slot, :, :, seen].double().repeat_interleave(self.group, 0)
            values = self.cache.values[slot, :, seen].double().repeat_interleave(self.group, 0)
            weights = torch.softmax(torch.einsum("hd,hdj->hj", torch.from_numpy(q).double(), keys), -1)
            rows.append(torch.einsum("hj,hjd->hd", weights, values).flatten())
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 5, 41, 500])
def test_attention_is_the_softmax_over_what_a_row_may_see(dtype: torch.dtype, window: int) -> None:
    attention = Attention(dtype)
    assert_near(attention.run(window), attention.expected(window))


@pytest.mark.parametrize(("heads", "kv", "d"), [(4, 4, 8), (6, 1, 24), (2, 1, 64)])
def test_attention_serves_every_grouping_of_heads(heads: int, kv: int, d: int) -> None:
    attention = Attention(torch.float32, heads=heads, kv=kv, d=d)
    assert_near(attention.run(0), attention.expected(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 5])
def test_attention_of_a_row_does_not_depend_on_the_other_rows(dtype: torch.dtype, window: int) -> None:
    attention = Attention(dtype)
    whole = attention.run(window)
    for rows in ([0], [6], [8, 6], [4, 3, 2, 1, 0], [6, 6, 6]):
        assert torch.equal(attention.run(window, rows), whole[rows])


def test_attention_does_not_see_what_lies_behind_a_row() -> None:
    attention = Attention(torch.float32)
    before = attention.run(0, [4])
    attention.cache.keys[1, :, :, 9:] = 1e9
    attention.cache.values[1, :, 9:] = 1e9
    attention.cache.keys[0] = 1e9
    assert torch.equal(attention.run(0, [4]), before)


def test_extreme_scores_neither_overflow_nor_vanish() -> None:
    attention = Attention(torch.float32)
    attention.q *= 1e4
    assert_near(attention.run(0), attention.expected(0))
