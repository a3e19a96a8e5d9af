"""Linear layers by tiles, shared out among the threads; what becomes of the sums is what the functions differ in."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numba.core import types
from numba.extending import overload

from paceline.models.kernels import ROW, load, silu, store
from paceline.models.quantized import byte_product, quantize
from paceline.models.tiles import LANES, ROWS, product

SHARED = {"parallel": True, "nogil": True, "cache": True, "error_model": "numpy"}
"""Options of kernels that use all threads."""
HALF = LANES // 2
_PUT, _ADD, _GATE = range(3)


@njit(**ROW)
def _put(sums, count, bias, out, first, column):
    """Rounded sums; whole tiles have a loop of fixed length, which is what gets vectorised."""
    for r in range(count):
        row, total = out[first + r, column : column + LANES], sums[r]
        if row.shape[0] == LANES:
            for n in range(LANES):
                row[n] = store(total[n] + bias[n], row[0])
        else:
            for n in range(row.shape[0]):
                row[n] = store(total[n] + bias[n], row[0])


@njit(**ROW)
def _add(sums, count, bias, out, first, column):
    """Added to what is there, rounded before and after."""
    for r in range(count):
        row, total = out[first + r, column : column + LANES], sums[r]
        if row.shape[0] == LANES:
            for n in range(LANES):
                row[n] = store(load(row[n]) + load(store(total[n] + bias[n], row[0])), row[0])
        else:
            for n in range(row.shape[0]):
                row[n] = store(load(row[n]) + load(store(total[n] + bias[n], row[0])), row[0])


@njit(**ROW)
def _gate(sums, count, bias, out, first, column):
    """silu of the first half of the lanes times the second half."""
    for r in range(count):
        row, total = out[first + r, column : column + HALF], sums[r]
        for n in range(LANES):
            total[n] = load(store(total[n] + bias[n], row[0]))
        for n in range(HALF):
            total[n] = load(store(silu(total[n]), row[0])) * total[HALF + n]
        for n in range(row.shape[0]):
            row[n] = store(total[n], row[0])


def ready(parts, x, tiles):
    """Rows as the product with these tiles takes them."""
    raise NotImplementedError(parts, x, tiles)


@overload(ready)
def _ready(parts, x, tiles):
    if isinstance(tiles, types.Array):
        return lambda parts, x, tiles: x
    return lambda parts, x, tiles: quantize(parts, x)


def count_tiles(tiles):
    """How many there are."""
    raise NotImplementedError(tiles)


@overload(count_tiles)
def _count_tiles(tiles):
    if isinstance(tiles, types.Array):
        return lambda tiles: tiles.shape[0]
    return lambda tiles: tiles[0].shape[0]


def layer_of(tiles, layer):
    """The tiles of one layer."""
    raise NotImplementedError(tiles, layer)


@overload(layer_of)
def _layer_of(tiles, layer):
    if isinstance(tiles, types.Array):
        return lambda tiles, layer: tiles[layer]
    return lambda tiles, layer: (tiles[0][layer], tiles[1][layer], tiles[2][layer])


def times(count, x, first, tiles, tile, out):
    """out[:count, :] (float32) = rows from ``first`` on times one of the tiles."""
    raise NotImplementedError(count, x, first, tiles, tile, out)


@overload(times)
def _times(count, x, first, tiles, tile, out):
    if isinstance(tiles, types.Array):
        return lambda count, x, first, tiles, tile, out: product(count, x, first, tiles[tile], out)

    def run(count, x, first, tiles, tile, out):
        byte_product(count, first, (x[0], x[1], tiles[0][tile], tiles[1][tile], tiles[2][tile], out))

    return run


@njit(**SHARED)
def _share_out(parts, x, tiles, bias, out, way):
    """Products of all rows with all tiles; ``way`` is what becomes of the sums."""
    num_tiles, num_rows, rows = count_tiles(tiles), x.shape[0], ready(parts, x, tiles)
    for part in prange(parts):
        sums = np.empty((ROWS, LANES), np.float32)
        for tile in range(num_tiles * part // parts, num_tiles * (part + 1) // parts):
            own = bias[tile * LANES : (tile + 1) * LANES]
            for first in range(0, num_rows, ROWS):
                count = min(ROWS, num_rows - first)
                times(count, rows, first, tiles, tile, sums)
                if way == _PUT:
                    _put(sums, count, own, out, first, tile * LANES)
                elif way == _ADD:
                    _add(sums, count, own, out, first, tile * LANES)
                else:
                    _gate(sums, count, own, out, first, tile * HALF)


@njit(nogil=True, cache=True)
def multiply(parts, x, tiles, bias, out):
    """out [rows, n] = x [rows, depth] times tiles, plus bias.

    tiles [n / LANES, depth / pair, LANES, pair], or the three arrays of ``ByteTiles``.
    """
    _share_out(parts, x, tiles, bias, out, _PUT)


@njit(nogil=True, cache=True)
def add_product(parts, x, tiles, bias, out):
    """out [rows, n] += x times tiles, plus bias."""
    _share_out(parts, x, tiles, bias, out, _ADD)


@njit(nogil=True, cache=True)
def gated_product(parts, x, tiles, bias, out):
    """out [rows, n] = silu(gate) * up; each tile has half of its lanes of either."""
    _share_out(parts, x, tiles, bias, out, _GATE)
