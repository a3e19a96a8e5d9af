"""Attention by tiles against plain torch in double precision, and each row against itself among others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numba import get_num_threads

from paceline.models.attend import KeyValues, Places, attend
from paceline.models.attention import rope_and_store, store_kv
from paceline.models.views import as_array

DTYPES = [torch.bfloat16, torch.float32]
TOLERANCE = {torch.bfloat16: 8e-3, torch.float32: 2e-6}
"""One rounding to the type, relative to values of about 1."""


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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
    q, angles = torch.empty(rows, heads, d, dtype=dtype), (cosine.numpy(), sine.numpy())
    rope_and_store(get_num_threads(), as_array(qkv), angles, places.homes, cache.arrays, as_array(q))
    parts = qkv.view(rows, heads + 2 * kv, d)
    expected = rotate(parts[:, : heads + kv].float(), cosine, sine)
    tolerance = 3 * TOLERANCE[dtype]
    torch.testing.assert_close(q.float(), expected[:, :heads], rtol=tolerance, atol=tolerance)
    for row, (slot, position) in enumerate(zip(places.slots, places.positions, strict=True)):
        keys, values = cache.rows(slot, position, position + 1)
        torch.testing.assert_close(keys[0].float(), expected[row, heads:], rtol=tolerance, atol=tolerance)
        assert torch.equal(values[0], parts[row, heads + kv :])


def test_only_the_places_of_the_rows_are_written() -> None:
    cache = KeyValues(2, 6, (1, 8), torch.float32)
    k, v = random(1, 2, 8), random(1, 2, 8, seed=1)
    store_kv(as_array(k), as_array(v), (np.array([1, 1]), np.array([2, 3])), cache.arrays)
    for stored, given in zip(cache.rows(1, 2, 4), (k, v), strict=True):
        assert torch.equal(stored, given.transpose(0, 1))
    for tensor in (cache.keys, cache.values):
        assert torch.count_nonzero(tensor) == 16


class Attention:
    """A filled cache, queries at some places, and the textbook's answer."""

    def __init__(self, dtype: torch.dtype, *, heads: int = 4, kv: int = 2, d: int = 16, capacity: int = 70) -> None:
        self.dtype, self.group, self.scale = dtype, heads // kv, 1 / math.sqrt(d)
        self.cache = KeyValues(3, capacity, (kv, d), dtype)
        self.keys = random(3, capacity, kv, d, seed=1, dtype=dtype)
        self.values = random(3, capacity, kv, d, seed=2, dtype=dtype)
        for slot in range(3):
            self.cache.put_rows(slot, 0, self.keys[slot], self.values[slot])
        self.positions = np.array([0, 1, 6, 7, 8, 40, 69, 69, 15])
        self.slots = np.array([0, 2, 1, 1, 1, 0, 2, 0, 2])
        self.q = random(len(self.slots), heads, d, seed=3, dtype=dtype)

    def run(self, window: int, rows: list[int] | None = None) -> torch.Tensor:
        chosen = list(range(len(self.slots))) if rows is None else rows
        out = torch.empty(len(chosen), self.q.shape[1] * self.q.shape[2], dtype=self.dtype)
        places = Places(self.slots[chosen], self.positions[chosen])
        attend(self.q[chosen], self.cache, places, window, self.scale, out)
        return out

    def expected(self, window: int) -> torch.Tensor:
        rows = []
        for q, slot, position in zip(self.q, self.slots, self.positions, strict=True):
            first = max(0, position + 1 - window) if window else 0
            keys, values = (
                one[slot, first : position + 1].double().repeat_interleave(self.group, 1)
                for one in (self.keys, self.values)
            )
            weights = torch.softmax(self.scale * torch.einsum("hd,jhd->hj", q.double(), keys), -1)
            rows.append(torch.einsum("hj,jhd->hd", weights, values).flatten())
        return torch.stack(rows)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The weights are rounded to the type of the values too."""
    tolerance = 3 * TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 5, 41, 500])
def test_attention_is_the_softmax_over_what_a_row_may_see(dtype: torch.dtype, window: int) -> None:
    attention = Attention(dtype)
    assert_near(attention.run(window), attention.expected(window))


@pytest.mark.parametrize(("heads", "kv", "d"), [(4, 4, 8), (6, 1, 24), (2, 1, 64), (26, 1, 40)])
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 5])
def test_rows_of_one_session_that_are_computed_together_keep_their_bits(dtype: torch.dtype, window: int) -> None:
    attention = Attention(dtype, heads=6, kv=2)
    attention.slots, attention.positions = np.full(9, 1), np.arange(27, 36)
    whole = attention.run(window)
    assert torch.equal(torch.cat([attention.run(window, [row]) for row in range(9)]), whole)
    assert torch.equal(torch.cat([attention.run(window, rows) for rows in ([0, 1, 2, 3, 4], [5, 6, 7, 8])]), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_does_not_see_what_lies_behind_a_row(dtype: torch.dtype) -> None:
    attention = Attention(dtype)
    before = attention.run(0, [4])
    behind = torch.full((61, 2, 16), torch.nan)
    attention.cache.put_rows(1, 9, behind, behind)
    attention.cache.keys[0] = torch.nan
    assert torch.equal(attention.run(0, [4]), before)


def test_extreme_scores_neither_overflow_nor_vanish() -> None:
    attention = Attention(torch.float32)
    attention.q *= 1e4
    assert_near(attention.run(0), attention.expected(0))
