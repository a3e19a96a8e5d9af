"""The one attention of every model on the CPU: KV slots in, rows out, bits that depend on a row's own past only."""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import get_num_threads
from numpy.typing import NDArray
from torch.nn import functional as F

from paceline.core.errors import Unsupported
from paceline.models import attention
from paceline.models.packed import pair_of
from paceline.models.tiles import LANES
from paceline.models.views import Bits, as_array

FULL = "full_attention"
"""The kind of layer that sees its whole past, in the library's words."""
TOGETHER = 4
"""Rows of one session that one thread takes at a time."""
Indices = NDArray[np.int64]
_Where = tuple[Indices, Indices, Indices, Indices]
"""Slots, positions, and those of the homes."""


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

    places: _Where
    firsts: Indices
    """[groups + 1]: the rows that one thread takes at a time, all of one slot."""


class Places:
    """Where each row of a step lives: ``slots`` and ``positions`` [rows]."""

    def __init__(self, slots: Indices, positions: Indices, beside: Beside | None = None) -> None:
        self.slots, self.positions, self.beside = slots, positions, beside
        self.homes = (slots, positions)
        """Where keys and values are put."""
        count = len(slots) - (len(beside.slots) if beside else 0)
        own = (slots[:count], positions[:count])
        guests = (slots[count:], positions[count:])
        homes = guests
        if beside is not None:
            homes = (beside.slots, beside.positions)
            self.homes = (np.concatenate([own[0], homes[0]]), np.concatenate([own[1], homes[1]]))
        firsts = beside.firsts if beside else np.zeros(1, np.int64)
        self.turns = (Turn(own + own, _groups(own[0])), Turn(guests + homes, firsts))
        """The rows of the step, and then those that stand beside them."""


def _groups(slots: Indices) -> Indices:
    """Where runs of one slot begin, cut to ``TOGETHER`` rows, and where the last one ends."""
    firsts, start, last = [], 0, -1
    for row, slot in enumerate(slots.tolist()):
        if slot != last or row - start == TOGETHER:
            firsts.append(row)
            start, last = row, slot
    return np.array([*firsts, len(slots)], np.int64)


class KeyValues:
    """One layer's cache, in the tiles of ``attention``; pages come with use.

    Raises ``Unsupported`` for heads of an odd size.
    """

    def __init__(self, num_slots: int, capacity: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
        keys, values = allocate(1, num_slots, capacity, shape, dtype)
        self._take(keys[0], values[0], shape)

    def _take(self, keys: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> None:
        self.keys, self.values, self.shape = keys, values, shape
        self.arrays = (as_array(keys), as_array(values))

    @classmethod
    def layers(cls, memory: tuple[torch.Tensor, torch.Tensor], shape: tuple[int, int]) -> list[KeyValues]:
        """One for each of the layers in ``memory``."""
        made = []
        for keys, values in zip(*memory, strict=True):
            one = cls.__new__(cls)
            one._take(keys, values, shape)
            made.append(one)
        return made

    @property
    def row_bytes(self) -> int:
        """Of one position of one slot."""
        num_slots, _, blocks, *_ = self.keys.shape
        return (self.keys.nbytes + self.values.nbytes) // (num_slots * blocks * LANES)

    def rows(self, slot: int, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of keys and values [positions, heads, d]."""
        keys, values = self._by_position(slot)
        at, pair = np.arange(start, end), values.shape[1]
        found = keys[at // LANES, at % LANES], values[at // pair, at % pair]
        own, padded = (torch.from_numpy(one).view(self.keys.dtype).flatten(2) for one in found)
        return own, padded[..., : self.shape[1]]

    def put_rows(self, slot: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take keys and values [positions, heads, d] from ``start`` on."""
        own_keys, own_values = self._by_position(slot)
        at, pair = np.arange(start, start + len(keys)), own_values.shape[1]
        padded = F.pad(values, (0, -self.shape[1] % LANES)).unflatten(2, (-1, LANES))
        own_keys[at // LANES, at % LANES] = as_array(keys.to(self.keys.dtype).unflatten(2, (-1, pair)))
        own_values[at // pair, at % pair] = as_array(padded.to(self.keys.dtype))

    def _by_position(self, slot: int) -> tuple[Bits, Bits]:
        """Views [blocks, LANES, heads, d / pair, pair] and [positions / pair, pair, heads, tiles, LANES]."""
        keys, values = self.arrays
        return keys[slot].transpose(1, 3, 0, 2, 4), values[slot].transpose(2, 4, 0, 1, 3)

    def copy(self, home: tuple[int, int], place: tuple[int, int]) -> None:
        """Keys and values of one (slot, position) to another."""
        for own, others in zip(self._at(*place), self._at(*home), strict=True):
            own[...] = others

    def _at(self, slot: int, position: int) -> tuple[Bits, Bits]:
        """Views of keys and values of one position."""
        keys, values = self._by_position(slot)
        pair = values.shape[1]
        return keys[position // LANES, position % LANES], values[position // pair, position % pair]


def allocate(
    num_layers: int, num_slots: int, capacity: int, shape: tuple[int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros for keys [layers, slots, heads, blocks, d / pair, LANES, pair] and values [layers, slots, heads, tiles,
    positions / pair, LANES, pair]."""
    heads, d = shape
    pair, blocks = pair_of(dtype), math.ceil(capacity / LANES)
    if d % pair:
        raise Unsupported(f"Heads of {d} dimensions are not served: the attention kernel needs an even number.")
    bits: type[np.uint16 | np.float32] = np.uint16 if dtype == torch.bfloat16 else np.float32
    keys = (num_layers, num_slots, heads, blocks, d // pair, LANES, pair)
    values = (num_layers, num_slots, heads, math.ceil(d / LANES), blocks * LANES // pair, LANES, pair)
    first, second = (torch.from_numpy(_fresh_zeros(one, bits)).view(dtype) for one in (keys, values))
    return first, second


def _fresh_zeros(shape: tuple[int, ...], bits: type[np.uint16 | np.float32]) -> NDArray[Any]:
    """Zeros in pages of their own, which the system gives when they are written.

    ``torch.zeros`` writes them all, and ``numpy.zeros`` does where the heap has that much free.
    """
    pages = mmap.mmap(-1, math.prod(shape) * np.dtype(bits).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages; they only make it faster
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, bits).reshape(shape)


def attend(q: torch.Tensor, cache: KeyValues, places: Places, window: int, scale: float, out: torch.Tensor) -> None:
    """``out`` [rows, heads * d] from queries [rows, heads, d] of the cache's type; each row sees its slot up to itself.

    window: positions seen at most, 0 for all; scale: of the scores.
    """
    queries, mixed, options = as_array(q), as_array(out), (window, np.float32(scale))
    first = 0
    for turn in places.turns:
        rows = slice(first, first + len(turn.places[0]))
        first = rows.stop
        if rows.stop > rows.start:
            attention.attention(get_num_threads(), queries[rows], cache.arrays, turn, options, mixed[rows])
