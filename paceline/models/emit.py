"""LLVM code for the inner loops: vectors, loads, and a case for every number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

WIDTH = 16
"""Lanes of a register."""
I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, INTS = ir.VectorType(F32, WIDTH), ir.VectorType(I32, WIDTH)


class _BFloat(ir.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()
PAIRS = ir.VectorType(_BFloat(), 2 * WIDTH)


def features() -> frozenset[str]:
    """What numba compiles for."""
    settings: Any = config
    if settings.CPU_FEATURES is not None:
        return frozenset(one[1:] for one in settings.CPU_FEATURES.split(",") if one.startswith("+"))
    if settings.CPU_NAME == "generic":
        return frozenset()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """An intrinsic of LLVM."""
    kind = ir.FunctionType(result, [one.type for one in arguments])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), arguments)


def load(builder: Any, address: Any, kind: Any) -> Any:
    """A scalar or vector at an address."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """Put it there."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def spread(builder: Any, scalar: Any) -> Any:
    """A scalar of 4 bytes in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(INTS, [0] * WIDTH))


def at(builder: Any, address: Any, index: Any, stride: int) -> Any:
    """address + index * stride."""
    return builder.add(address, builder.mul(index, I64(stride)))


def fma(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """a * b + total, rounded once."""
    return call(builder, "llvm.fma.v16f32", FLOATS, a, b, total)


def constant(value: int) -> Any:
    """In all lanes."""
    return ir.Constant(INTS, [value] * WIDTH)


Emit = Callable[[Any, int, list[Any]], None]
"""(builder, number of rows, arguments)"""


def by_rows(emit: Emit, most: int) -> Any:
    """A function of (number of rows, 1 to ``most``; arrays and integers), with code of its own for every number.

    ``emit`` gets arrays as what ``make_array`` makes of them.
    """

    @intrinsic
    def function(typing_context, count, first, arrays):
        def generate(context, builder, signature, arguments):
            count, first, packed = arguments
            members = [builder.extract_value(packed, index) for index in range(len(arrays))]
            made = [make_array(kind)(context, builder, one) for kind, one in zip(arrays, members, strict=True)]
            end = builder.append_basic_block()
            cases = builder.switch(count, end)
            for number in range(1, most + 1):
                block = builder.append_basic_block()
                cases.add_case(I64(number), block)
                builder.position_at_end(block)
                emit(builder, number, [first, *made])
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, arrays), generate

    return function


def start_of(builder: Any, array: Any) -> Any:
    """Address of an array's first element."""
    return builder.ptrtoint(array.data, I64)


def length_of(builder: Any, array: Any) -> Any:
    """Of an array's first dimension."""
    return builder.extract_value(array.shape, 0)


def row_addresses(builder: Any, array: Any, first: Any, num_rows: int) -> list[Any]:
    """Of so many rows of an array."""
    stride = builder.extract_value(array.strides, 0)
    start = builder.add(start_of(builder, array), builder.mul(first, stride))
    return [builder.add(start, builder.mul(stride, I64(index))) for index in range(num_rows)]


def prefetch(builder: Any, address: Any) -> None:
    """Bring a line into the second-level cache; any address will do."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    builder.call(
        builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind), [pointer, I32(0), I32(2), I32(1)]
    )
