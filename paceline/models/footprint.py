"""How much memory a network takes: its tensors and arrays, each piece of memory once.

Counted from what is there, packed and doubled weights included, not from the number of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from paceline.models.attend import KeyValues


def weights_bytes(root: object) -> int:
    """Of everything that ``root`` holds but the keys and values of sessions."""
    pieces = {}
    for one in _parts(root):
        if isinstance(one, torch.Tensor | np.ndarray):
            address, size = _memory(one)
            pieces[address] = size
    return sum(pieces.values())


def token_bytes(root: object) -> int:
    """Of the keys and values of one position in all layers that ``root`` holds."""
    caches = [one for one in _parts(root) if isinstance(one, KeyValues)]
    return sum(one.row_bytes for one in caches)


def tensor_bytes(*tensors: torch.Tensor | None) -> int:
    """Of small tensors that share no memory; None counts nothing."""
    return sum(one.numel() * one.element_size() for one in tensors if one is not None)


def _parts(root: object) -> Iterator[object]:
    """Everything inside once: containers, modules and objects of this package are looked into."""
    waiting, seen = [root], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        yield one
        waiting += _inside(one)


def _inside(one: Any) -> list[object]:  # noqa: ANN401
    if isinstance(one, dict):
        return list(one.values())
    if isinstance(one, list | tuple):
        return list(one)
    if isinstance(one, KeyValues | torch.Tensor | np.ndarray):
        return []
    if isinstance(one, nn.Module) or type(one).__module__.startswith("paceline."):
        slots = [getattr(one, name) for name in getattr(type(one), "__slots__", ()) if hasattr(one, name)]
        return [*getattr(one, "__dict__", {}).values(), *slots]
    return []


def _memory(one: Any) -> tuple[object, int]:  # noqa: ANN401
    """(what tells it from other memory, bytes)."""
    if isinstance(one, np.ndarray):
        return one.__array_interface__["data"][0], one.nbytes
    storage = one.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
