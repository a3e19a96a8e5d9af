"""Compiled row kernels for the CPU: each row is computed alone, in an order that only its own position decides.

That makes them invariant to batching by construction. One source serves bfloat16 (as uint16 bits) and float32 arrays:
``load`` widens to float32, ``store`` rounds back to the type of its second argument (round to nearest even).
"""

from __future__ import annotations

import math

import numba as nb
from numba import njit
from numba.core import types
from numba.extending import intrinsic

ROW = {"fastmath": {"reassoc", "contract", "nsz"}, "nogil": True, "cache": True, "error_model": "numpy"}


@intrinsic
def _bits(typing_context, x):
    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _float(typing_context, x):
    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@nb.extending.register_jitable(inline="always")
def _widen(u):
    return _float(nb.uint32(u) << nb.uint32(16))


@nb.extending.register_jitable(inline="always")
def _narrow(f):
    u = _bits(f)
    return nb.uint16((u + nb.uint32(0x7FFF) + ((u >> nb.uint32(16)) & nb.uint32(1))) >> nb.uint32(16))


def load(x):
    """An array element as float32."""
    raise NotImplementedError(x)


def store(f, like):
    """A float32 as an element of the same type as ``like``."""
    raise NotImplementedError(f, like)


@nb.extending.overload(load, inline="always")
def _load(x):
    return (lambda x: _widen(x)) if x == types.uint16 else (lambda x: x)


@nb.extending.overload(store, inline="always")
def _store(f, like):
    return (lambda f, like: _narrow(f)) if like == types.uint16 else (lambda f, like: f)


@njit(**ROW)
def exp(x):
    """Cephes' single-precision exponential for x <= 0; unlike the library's it is vectorised in place."""
    x = max(x, nb.float32(-87.0))
    n = nb.int32(x * nb.float32(1.44269504) + nb.float32(128.5)) - nb.int32(128)
    f = nb.float32(n)
    r = x - f * nb.float32(0.693359375) + f * nb.float32(2.12194440e-4)
    p = nb.float32(1.9875691500e-4)
    p = p * r + nb.float32(1.3981999507e-3)
    p = p * r + nb.float32(8.3334519073e-3)
    p = p * r + nb.float32(4.1665795894e-2)
    p = p * r + nb.float32(1.6666665459e-1)
    p = p * r + nb.float32(5.0000001201e-1)
    p = p * r * r + r + nb.float32(1)
    return p * _float(nb.uint32(n + nb.int32(127)) << nb.uint32(23))


@njit(**ROW)
def rms_norm(x, weight, eps, out):
    """Root mean square norm of each row [rows, hidden], rounded where ``transformers`` rounds."""
    num_rows, size = x.shape
    for r in range(num_rows):
        total = nb.float32(0)
        for i in range(size):
            v = load(x[r, i])
            total += v * v
        inverse = nb.float32(1) / nb.float32(math.sqrt(total / nb.float32(size) + eps))
        for i in range(size):
            normed = store(load(x[r, i]) * inverse, x[r, i])
            out[r, i] = store(load(normed) * load(weight[i]), x[r, i])


@nb.extending.register_jitable(inline="always")
def silu(x):
    """x times its logistic function; the exponential of a positive number is never taken."""
    e = exp(-abs(x))
    return x * (nb.float32(1) if x >= nb.float32(0) else e) / (nb.float32(1) + e)
