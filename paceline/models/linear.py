"""Linear layers by tiles, shared out among the threads; what becomes of the sums is what the functions differ in."""

from __future__ import annotations

import numba as nb
import numpy as np
from numba import njit, prange

from paceline.models.kernels import ROW, exp, load, store
from paceline.models.tiles import LANES, ROWS, product

SHARED = {"parallel": True, "nogil": True, "cache": True, "error_model": "numpy"}
"""Options of kernels that use all threads."""
HALF = LANES // 2


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
            x = total[n]
            e = exp(-abs(x))
            silu = x * (nb.float32(1) if x >= nb.float32(0) else e) / (nb.float32(1) + e)
            total[n] = load(store(silu, row[0])) * total[HALF + n]
        for n in range(row.shape[0]):
            row[n] = store(total[n], row[0])


@njit(**SHARED)
def multiply(parts, x, tiles, bias, out):
    """out [rows, n] = x [rows, depth] times tiles [n / LANES, depth / pair, LANES, pair], plus bias."""
    num_tiles, num_rows = tiles.shape[0], x.shape[0]
    for part in prange(parts):
        sums = np.empty((ROWS, LANES), np.float32)
        for tile in range(num_tiles * part // parts, num_tiles * (part + 1) // parts):
            column = tile * LANES
            for first in range(0, num_rows, ROWS):
                count = min(ROWS, num_rows - first)
                product(count, x, first, tiles[tile], sums)
                _put(sums, count, bias[column : column + LANES], out, first, column)


@njit(**SHARED)
def add_product(parts, x, tiles, bias, out):
    """out [rows, n] += x times tiles, plus bias."""
    num_tiles, num_rows = tiles.shape[0], x.shape[0]
    for part in prange(parts):
        sums = np.empty((ROWS, LANES), np.float32)
        for tile in range(num_tiles * part // parts, num_tiles * (part + 1) // parts):
            column = tile * LANES
            for first in range(0, num_rows, ROWS):
                count = min(ROWS, num_rows - first)
                product(count, x, first, tiles[tile], sums)
                _add(sums, count, bias[column : column + LANES], out, first, column)


@njit(**SHARED)
def gated_product(parts, x, tiles, bias, out):
    """out [rows, n] = silu(gate) * up; each tile has half of its lanes of either."""
    num_tiles, num_rows = tiles.shape[0], x.shape[0]
    for part in prange(parts):
        sums = np.empty((ROWS, LANES), np.float32)
        for tile in range(num_tiles * part // parts, num_tiles * (part + 1) // parts):
            column = tile * LANES
            for first in range(0, num_rows, ROWS):
                count = min(ROWS, num_rows - first)
                product(count, x, first, tiles[tile], sums)
                _gate(sums, count, bias[column : column + LANES], out, first, tile * HALF)
