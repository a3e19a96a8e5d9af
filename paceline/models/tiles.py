"""The inner loop of every matrix product: a few rows times one tile of packed weights, in registers.

A tile holds ``LANES`` outputs over the whole depth, so that each product of a row with an output is one chain of
additions along the depth. Its bits don't depend on which rows are computed together, nor on the number of threads:
what an invariance probe finds out about other libraries holds here by construction.

In bfloat16 two neighbours along the depth lie together: a processor with a dot product for such pairs
(``avx512bf16``) takes both in one instruction, others widen them and add one after the other.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import overload

from paceline.models.emit import (
    FLOATS,
    I32,
    I64,
    INTS,
    PAIRS,
    WIDTH,
    at,
    by_rows,
    call,
    constant,
    features,
    fma,
    length_of,
    load,
    row_addresses,
    spread,
    start_of,
    store,
)

LANES = 32
"""Outputs of a tile."""
REGISTERS = LANES // WIDTH
HAS_PAIR_DOT = "avx512bf16" in features()
ROWS = 12 if "avx512f" in features() else 2
"""Rows that fit into the registers with a tile's sums."""
PLAN = f"tiles{LANES}-{'dot' if HAS_PAIR_DOT else 'fma'}"
"""What decides the bits; part of the numerics id."""


def add_pair_dot(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    """By the processor's dot product of pairs."""
    pairs = (builder.bitcast(one, PAIRS) for one in (weights, row))
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, *pairs)


def add_widened(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    """The first of each pair, then the second."""
    high, by = constant(0xFFFF0000), constant(16)
    firsts = [builder.bitcast(builder.shl(one, by), FLOATS) for one in (weights, row)]
    seconds = [builder.bitcast(builder.and_(one, high), FLOATS) for one in (weights, row)]
    return fma(builder, fma(builder, total, *firsts), *seconds)


def add_float(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    """Numbers in float32."""
    return fma(builder, total, *(builder.bitcast(one, FLOATS) for one in (weights, row)))


def product_by(add: Any) -> Any:
    """A function of (number of rows, first row, (x [rows, depth], tile, out [ROWS, LANES]))."""

    def emit(builder: Any, num_rows: int, arguments: list[Any]) -> None:
        first, x, tile, out = arguments
        rows, targets = row_addresses(builder, x, first, num_rows), row_addresses(builder, out, I64(0), num_rows)
        totals = _along_depth(builder, add, rows, start_of(builder, tile), length_of(builder, tile))
        for target, own in zip(targets, totals, strict=True):
            for part, total in enumerate(own):
                store(builder, total, builder.add(target, I64(64 * part)))

    return by_rows(emit, ROWS)


def _along_depth(builder: Any, add: Any, rows: list[Any], weights: Any, depth: Any) -> list[list[Any]]:
    """Sums of the products of rows (addresses); 4 bytes of a row, and of each lane, at a time."""
    start, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    step.add_incoming(I64(0), start)
    sums = [[builder.phi(FLOATS) for _ in range(REGISTERS)] for _ in rows]
    place = at(builder, weights, step, 4 * LANES)
    parts = [load(builder, builder.add(place, I64(64 * part)), INTS) for part in range(REGISTERS)]
    totals = []
    for row, own in zip(rows, sums, strict=True):
        value = spread(builder, load(builder, at(builder, row, step, 4), I32))
        totals.append([add(builder, total, part, value) for total, part in zip(own, parts, strict=True)])
    following = builder.add(step, I64(1))
    step.add_incoming(following, loop)
    for phi, total in zip(chain(*sums), chain(*totals), strict=True):
        phi.add_incoming(ir.Constant(FLOATS, [0.0] * WIDTH), start)
        phi.add_incoming(total, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, end)
    builder.position_at_end(end)
    return totals


_paired = product_by(add_pair_dot if HAS_PAIR_DOT else add_widened)
_single = product_by(add_float)


def product(count, x, first, tile, out):
    """out[:count, :] (float32) = x[first : first + count] times a tile [depth / pair, LANES, pair].

    At most ``ROWS`` rows, at least one number along the depth; memory along it is contiguous.
    """
    raise NotImplementedError(count, x, first, tile, out)


@overload(product)
def _product(count, x, first, tile, out):
    multiply = _paired if tile.dtype == types.uint16 else _single
    return lambda count, x, first, tile, out: multiply(count, first, (x, tile, out))
