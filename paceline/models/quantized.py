"""Products with weights of 8 bits: half of the memory that bfloat16 reads, integers inside, the same bits everywhere.

Weights and activations are scaled by group: ``GROUP`` numbers along the depth share a factor, that of an output or of
a row, by which the largest of them becomes 127. Sums inside a group are sums of integers and so exact; groups are
added in their order. Rows are quantised by themselves, so a row's bits are its own, as with other tiles (``tiles``).

The processor multiplies unsigned with signed bytes (``avx512vnni``; others do the same in steps): a row's bytes are
128 too large, which the sums begin with.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch.nn import functional as F

from paceline.models import kernels
from paceline.models.emit import (
    FLOATS,
    I32,
    I64,
    INTS,
    at,
    by_rows,
    call,
    constant,
    features,
    fma,
    length_of,
    load,
    prefetch,
    row_addresses,
    spread,
    start_of,
    store,
)
from paceline.models.tiles import LANES, REGISTERS, ROWS

GROUP = 64
_STEPS = GROUP // 4
_AHEAD = 4096
"""Bytes of weights that are fetched ahead: the processor's own guess ends at a page."""
HAS_BYTE_DOT = "avx512vnni" in features()
PLAN = f"int8g{GROUP}"
"""Part of the numerics id; processors without the instruction get the same bits."""


class ByteTiles(NamedTuple):
    """Weights [out, in] of 8 bits."""

    weights: NDArray[np.int8]
    """[tiles, groups, GROUP / 4, LANES, 4]"""
    scales: NDArray[np.float32]
    """[tiles, groups, LANES]"""
    starts: NDArray[np.int32]
    """[tiles, groups, LANES]: -128 times the sum of the group's weights."""


def byte_tiles(weight: torch.Tensor) -> ByteTiles:
    """Weights [out, in], each group of an output rounded to the nearest of 255 steps."""
    outputs, inputs = weight.shape
    whole = F.pad(weight.detach().float(), (0, -inputs % GROUP, 0, -outputs % LANES))
    groups = whole.view(-1, LANES, whole.shape[1] // GROUP, GROUP).transpose(1, 2)  # [tiles, groups, lanes, GROUP]
    scales = groups.abs().amax(-1) / 127
    steps = (groups / scales.clamp(min=1e-30)[..., None]).round().clamp(-127, 127).to(torch.int32)
    packed = steps.view(*steps.shape[:-1], _STEPS, 4).transpose(2, 3).to(torch.int8).contiguous()
    return ByteTiles(packed.numpy(), scales.contiguous().numpy(), (-128 * steps.sum(-1)).to(torch.int32).numpy())


@njit(**kernels.ROW)
def _quantize(row, scaled, scales):
    """One row: unsigned bytes and the factors of its groups."""
    for group in range(scales.shape[0]):
        source, out = row[group * GROUP : (group + 1) * GROUP], scaled[group * GROUP : (group + 1) * GROUP]
        top = nb.float32(0)
        for i in range(source.shape[0]):
            top = max(top, abs(kernels.load(source[i])))
        scales[group] = top / nb.float32(127)
        factor = nb.float32(127) / top if top > nb.float32(0) else nb.float32(0)
        out[:] = 128
        for i in range(source.shape[0]):
            out[i] = nb.uint8(nb.int32(np.rint(kernels.load(source[i]) * factor)) + nb.int32(128))


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def quantize(parts, x):
    """Bytes [rows, groups * GROUP] and factors [rows, groups] of x [rows, depth]."""
    num_rows, groups = x.shape[0], (x.shape[1] + GROUP - 1) // GROUP
    scaled, scales = np.empty((num_rows, groups * GROUP), np.uint8), np.empty((num_rows, groups), np.float32)
    for part in prange(parts):
        for r in range(num_rows * part // parts, num_rows * (part + 1) // parts):
            _quantize(x[r], scaled[r], scales[r])
    return scaled, scales


def add_byte_dot(builder: Any, total: Any, row: Any, weights: Any) -> Any:
    """Four products of unsigned with signed bytes, by the processor."""
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", INTS, total, row, weights)


def add_bytes(builder: Any, total: Any, row: Any, weights: Any) -> Any:
    """The same, one after the other."""
    for index in range(4):
        left = constant(24 - 8 * index)
        unsigned = builder.lshr(builder.shl(row, left), constant(24))
        signed = builder.ashr(builder.shl(weights, left), constant(24))
        total = builder.add(total, builder.mul(unsigned, signed))
    return total


def byte_product_by(add: Any) -> Any:
    """A function of (number of rows, first row, (bytes, factors, weights, scales and starts of a tile, out))."""

    def emit(builder: Any, num_rows: int, arguments: list[Any]) -> None:
        first, x, factors, *tile, out = arguments
        places = [row_addresses(builder, array, first, num_rows) for array in (x, factors)]
        targets = row_addresses(builder, out, I64(0), num_rows)
        weights, scales, starts = (start_of(builder, one) for one in tile)
        for target in targets:
            for part in range(REGISTERS):
                store(builder, FLOATS([0.0] * 16), builder.add(target, I64(64 * part)))
        before, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        group = builder.phi(I64)
        group.add_incoming(I64(0), before)
        lanes = [at(builder, one, group, 4 * LANES) for one in (scales, starts)]
        rows = [at(builder, one, group, GROUP) for one in places[0]]
        sums = _along_group(builder, add, rows, at(builder, weights, group, GROUP * LANES), lanes[1])
        for index, own in enumerate(sums):
            factor = spread(builder, load(builder, at(builder, places[1][index], group, 4), FLOATS.element))
            for part, total in enumerate(own):
                place = builder.add(targets[index], I64(64 * part))
                scale = load(builder, builder.add(lanes[0], I64(64 * part)), FLOATS)
                scaled = builder.fmul(builder.sitofp(total, FLOATS), scale)
                store(builder, fma(builder, load(builder, place, FLOATS), scaled, factor), place)
        following = builder.add(group, I64(1))
        group.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, length_of(builder, tile[0])), loop, end)
        builder.position_at_end(end)

    return by_rows(emit, ROWS)


def _along_group(builder: Any, add: Any, rows: list[Any], weights: Any, starts: Any) -> list[list[Any]]:
    """Integer sums of a group, 4 bytes of a row and of each lane at a time; no loop, the steps are few."""
    first = [load(builder, builder.add(starts, I64(64 * part)), INTS) for part in range(REGISTERS)]
    sums = [list(first) for _ in rows]
    for step in range(_STEPS):
        place = builder.add(weights, I64(4 * LANES * step))
        for part in range(REGISTERS):
            prefetch(builder, builder.add(place, I64(_AHEAD + 64 * part)))
        parts = [load(builder, builder.add(place, I64(64 * part)), INTS) for part in range(REGISTERS)]
        for row, own in zip(rows, sums, strict=True):
            value = spread(builder, load(builder, builder.add(row, I64(4 * step)), I32))
            for part in range(REGISTERS):
                own[part] = add(builder, own[part], value, parts[part])
    return sums


byte_product = byte_product_by(add_byte_dot if HAS_BYTE_DOT else add_bytes)
