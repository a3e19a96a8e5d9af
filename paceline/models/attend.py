"""The one attention of every model on the CPU: KV slots in, rows out, bits that depend on a row's own past only."""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.core.errors import Unsupported
from paceline.models import kernels

FULL = "full_attention"
"""The kind of layer that sees its whole past, in the library's words."""
Bits = NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Places:
    """Where each row of a step lives."""

    slots: NDArray[np.int64]
    """[rows]"""
    positions: NDArray[np.int64]
    """[rows]"""

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For the kernels."""
        return self.slots, self.positions


def as_array(tensor: torch.Tensor) -> Bits:
    """The same memory for the kernels: bfloat16 as its bits, float32 as it is."""
    if tensor.dtype == torch.bfloat16:
        bits: Bits = tensor.view(torch.uint16).numpy()
        return bits
    plain: Bits = tensor.numpy()
    return plain


class KeyValues:
    """One layer's cache: keys [slots, kv, d, capacity], values [slots, kv, capacity, d]; pages come with use."""

    def __init__(self, num_slots: int, capacity: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
        kv, d = shape
        if d % 8:
            raise Unsupported(f"Heads of {d} dimensions are not served: the attention kernel needs a multiple of 8.")
        bits: type[np.uint16 | np.float32] = np.uint16 if dtype == torch.bfloat16 else np.float32
        self.keys = torch.from_numpy(_fresh_zeros((num_slots, kv, d, capacity), bits)).view(dtype)
        self.values = torch.from_numpy(_fresh_zeros((num_slots, kv, capacity, d), bits)).view(dtype)
        self.arrays = (as_array(self.keys), as_array(self.values))

    @property
    def row_bytes(self) -> int:
        """Of one position of one slot."""
        _, kv, d, _ = self.keys.shape
        return 2 * kv * d * self.keys.element_size()


def _fresh_zeros(shape: tuple[int, ...], bits: type[np.uint16 | np.float32]) -> NDArray[Any]:
    """Zeros in pages of their own, which the system gives when they are written.

    ``torch.zeros`` writes them all, and ``numpy.zeros`` does where the heap has that much free.
    """
    pages = mmap.mmap(-1, math.prod(shape) * np.dtype(bits).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages; they only make it faster
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, bits).reshape(shape)


def attend(q: NDArray[np.float32], cache: KeyValues, places: Places, window: int, out: torch.Tensor) -> None:
    """``out`` [rows, heads * d] from scaled queries [rows, heads, d]; each row sees its slot up to itself."""
    kernels.attention(q, cache.arrays, places.arrays, window, as_array(out))
