"""The one attention of every model on the CPU: KV slots in, rows out, bits that depend on a row's own past only."""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.core.errors import Unsupported
from paceline.models import kernels

FULL = "full_attention"
"""The kind of layer that sees its whole past, in the library's words."""
Bits = NDArray[np.uint16] | NDArray[np.float32]


Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Beside:
    """The last rows of a step, each of which stands for another row of its session at that one's position.

    It sees what that row sees but itself in its place, and no row sees it: its keys and values have a home elsewhere.
    """

    slots: Indices
    """[rows], of the homes"""
    positions: Indices
    """[rows], of the homes"""
    firsts: Indices
    """[sessions + 1]: rows of one session follow each other, since they take turns in its slot."""


class Turn(NamedTuple):
    """Rows that attend at the same time."""

    rows: slice
    places: tuple[Indices, Indices, Indices, Indices]
    """Slots, positions, and those of the homes."""
    firsts: Indices


class Places:
    """Where each row of a step lives: ``slots`` and ``positions`` [rows]."""

    def __init__(self, slots: Indices, positions: Indices, beside: Beside | None = None) -> None:
        self.slots, self.positions = slots, positions
        self.homes = (slots, positions)
        """Where keys and values are put."""
        count = len(slots) - (len(beside.slots) if beside else 0)
        own = (slots[:count], positions[:count])
        self.turns = [Turn(slice(0, count), own + own, np.arange(count + 1))]
        if beside is not None:
            homes = (beside.slots, beside.positions)
            self.homes = (np.concatenate([own[0], homes[0]]), np.concatenate([own[1], homes[1]]))
            self.turns.append(Turn(slice(count, None), (slots[count:], positions[count:], *homes), beside.firsts))


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

    def copy(self, home: tuple[int, int], place: tuple[int, int]) -> None:
        """Keys and values of one (slot, position) to another."""
        keys, values = self.arrays
        keys[place[0], :, :, place[1]] = keys[home[0], :, :, home[1]]
        values[place[0], :, place[1]] = values[home[0], :, home[1]]


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
    mixed = as_array(out)
    for rows, where, firsts in places.turns:
        kernels.attention(q[rows], cache.arrays, where, firsts, window, mixed[rows])
