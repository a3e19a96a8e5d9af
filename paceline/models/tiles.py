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

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

LANES = 32
"""Outputs of a tile."""
_WIDTH = 16
"""Lanes of a register."""
_REGISTERS = LANES // _WIDTH


class _BFloat(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _INTS = ir.VectorType(_F32, _WIDTH), ir.VectorType(_I32, _WIDTH)
_PAIRS = ir.VectorType(_BFloat(), 2 * _WIDTH)


def _features() -> frozenset[str]:
    """What numba compiles for."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return frozenset(one[1:] for one in settings.CPU_FEATURES.split(",") if one.startswith("+"))
    if settings.CPU_NAME == "generic":
        return frozenset()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


HAS_PAIR_DOT = "avx512bf16" in _features()
ROWS = 12 if "avx512f" in _features() else 2
"""Rows that fit into the registers with a tile's sums."""
PLAN = f"tiles{LANES}-{'dot' if HAS_PAIR_DOT else 'fma'}"
"""What decides the bits; part of the numerics id."""


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [one.type for one in arguments])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), arguments)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def _spread(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_INTS, [0] * _WIDTH))


def _fma(builder: Any, total: Any, a: Any, b: Any) -> Any:
    return _call(builder, "llvm.fma.v16f32", _FLOATS, a, b, total)


def _add_pair_dot(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    pairs = (builder.bitcast(one, _PAIRS) for one in (weights, row))
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, total, *pairs)


def _add_widened(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    high, by = ir.Constant(_INTS, [0xFFFF0000] * _WIDTH), ir.Constant(_INTS, [16] * _WIDTH)
    firsts = [builder.bitcast(builder.shl(one, by), _FLOATS) for one in (weights, row)]
    seconds = [builder.bitcast(builder.and_(one, high), _FLOATS) for one in (weights, row)]
    return _fma(builder, _fma(builder, total, *firsts), *seconds)


def _add_float(builder: Any, total: Any, weights: Any, row: Any) -> Any:
    return _fma(builder, total, *(builder.bitcast(one, _FLOATS) for one in (weights, row)))


def _emit(builder: Any, add: Any, num_rows: int, arguments: Any) -> None:
    """The loop along the depth for this many rows; 4 bytes of a row, and of each lane, at a time."""
    x, x_stride, tile, depth, out, out_stride = arguments
    start, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_I64)
    step.add_incoming(_I64(0), start)
    sums = [[builder.phi(_FLOATS) for _ in range(_REGISTERS)] for _ in range(num_rows)]
    at = builder.add(tile, builder.mul(step, _I64(4 * LANES)))
    weights = [_load(builder, builder.add(at, _I64(64 * part)), _INTS) for part in range(_REGISTERS)]
    totals = []
    for index, row in enumerate(sums):
        address = builder.add(builder.add(x, builder.mul(x_stride, _I64(index))), builder.mul(step, _I64(4)))
        value = _spread(builder, _load(builder, address, _I32), _INTS)
        totals.append([add(builder, total, part, value) for total, part in zip(row, weights, strict=True)])
    following = builder.add(step, _I64(1))
    step.add_incoming(following, loop)
    for phi, total in zip(chain(*sums), chain(*totals), strict=True):
        phi.add_incoming(ir.Constant(_FLOATS, [0.0] * _WIDTH), start)
        phi.add_incoming(total, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, end)
    builder.position_at_end(end)
    for index, row in enumerate(totals):
        for part, total in enumerate(row):
            address = builder.add(builder.add(out, builder.mul(out_stride, _I64(index))), _I64(64 * part))
            builder.store(total, builder.inttoptr(address, _FLOATS.as_pointer())).align = 4


def make_product(add: Any) -> Any:
    """A function of (number of rows, x [rows, depth], first row, tile, out [ROWS, LANES])."""

    @intrinsic
    def product(typing_context, count, x, first, tile, out):
        def generate(context, builder, signature, arguments):
            count, x, first, tile, out = (
                make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            x_stride, out_stride = (builder.extract_value(one.strides, 0) for one in (x, out))
            x_start, tile_start, out_start = (builder.ptrtoint(one.data, _I64) for one in (x, tile, out))
            row = builder.add(x_start, builder.mul(first, x_stride))
            depth = builder.extract_value(tile.shape, 0)
            _emit_cases(builder, add, count, (row, x_stride, tile_start, depth, out_start, out_stride))
            return context.get_dummy_value()

        return types.void(types.intp, x, types.intp, tile, out), generate

    return product


def _emit_cases(builder: Any, add: Any, num_rows: Any, arguments: Any) -> None:
    end = builder.append_basic_block()
    cases = builder.switch(num_rows, end)
    for count in range(1, ROWS + 1):
        block = builder.append_basic_block()
        cases.add_case(_I64(count), block)
        builder.position_at_end(block)
        _emit(builder, add, count, arguments)
        builder.branch(end)
    builder.position_at_end(end)


_paired = make_product(_add_pair_dot if HAS_PAIR_DOT else _add_widened)
_single = make_product(_add_float)


def product(count, x, first, tile, out):
    """out[:count, :] (float32) = x[first : first + count] times a tile [depth / pair, LANES, pair].

    At most ``ROWS`` rows, at least one number along the depth; memory along it is contiguous.
    """
    raise NotImplementedError(count, x, first, tile, out)


@overload(product)
def _product(count, x, first, tile, out):
    multiply = _paired if tile.dtype == types.uint16 else _single
    return lambda count, x, first, tile, out: multiply(count, x, first, tile, out)
