"""Linear layers on packed tiles of weights; a row's bits don't depend on the other rows, however many there are.

Activations of other models' code run row by row: torch computes the last elements of a thread's share with other code
than the rest, so that otherwise a row's bits would depend on how many rows there are and on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import get_num_threads
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from paceline.core.errors import InvalidRequest
from paceline.models import quantized as quantized_products
from paceline.models import tiles
from paceline.models.linear import HALF, multiply
from paceline.models.quantized import ByteTiles, byte_tiles
from paceline.models.tiles import LANES
from paceline.models.views import Bits, as_array

_ACTIVATIONS = tuple({one[0] if isinstance(one, tuple) else one for one in ACT2CLS.values()})


Tiles = Bits | ByteTiles
"""Weights as products take them."""


def pair_of(dtype: torch.dtype) -> int:
    """How many neighbours along the depth lie together in a tile."""
    return 2 if dtype == torch.bfloat16 else 1


def tiled(weight: torch.Tensor) -> Bits:
    """[out, in] as tiles [out / LANES, in / pair, LANES, pair], zeros where a number does not divide."""
    pair = pair_of(weight.dtype)
    outputs, inputs = weight.shape
    whole = F.pad(weight.detach(), (0, -inputs % pair, 0, -outputs % LANES))
    return as_array(whole.view(-1, LANES, whole.shape[1] // pair, pair).transpose(1, 2).contiguous())


def interleaved(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Half of the lanes of each tile from the first, half from the second."""
    whole = [one.new_zeros(-len(one) % HALF, *one.shape[1:]) for one in parts]
    halves = [torch.cat(both).unflatten(0, (-1, HALF)) for both in zip(parts, whole, strict=True)]
    return torch.stack(halves, 1).flatten(0, 2)


def wide(bias: torch.Tensor) -> NDArray[np.float32]:
    """A bias [out] in float32, with a number for each lane."""
    padded: NDArray[np.float32] = F.pad(bias.detach().float(), (0, -len(bias) % LANES)).numpy()
    return padded


def is_quantized(wanted: str) -> bool:
    """Of a setting: ``int8``, or empty for weights as they are. Raises ``InvalidRequest``."""
    if wanted not in ("", "int8"):
        raise InvalidRequest(f"quantize: {wanted!r} is not known; use int8, or leave it empty for weights as they are.")
    return bool(wanted)


def plan_of(*, quantized: bool) -> str:
    """What decides the bits of the products; part of the numerics id."""
    return f"{tiles.PLAN}+{quantized_products.PLAN}" if quantized else tiles.PLAN


class PackedLinear(nn.Module):
    """A drop-in for ``nn.Linear`` in inference; weight [out, in] in bfloat16 or float32.

    quantized: with weights of 8 bits (``quantized``).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, quantized: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._tiles: Tiles = byte_tiles(weight) if quantized else tiled(weight)
        self._bias = wide(torch.zeros(self.out_features) if bias is None else bias)
        self._missing = -self.in_features % pair_of(weight.dtype)

    @property
    def parts(self) -> tuple[Tiles, NDArray[np.float32]]:
        """Tiles and bias."""
        return self._tiles, self._bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        rows = x.reshape(-1, self.in_features)
        rows = F.pad(rows, (0, self._missing)) if self._missing else rows.contiguous()
        out = torch.empty(len(rows), self.out_features, dtype=x.dtype)
        multiply(get_num_threads(), as_array(rows), self._tiles, self._bias, as_array(out))
        return out.view(*x.shape[:-1], self.out_features)


class RowByRow(nn.Module):
    """An activation that sees one row at a time."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self._activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape; rows are along the last dimension."""
        rows = x.reshape(-1, x.shape[-1]).unbind()
        return torch.stack([self._activation(row) for row in rows]).view(x.shape)


def pack(module: nn.Module, *, quantized: bool = False) -> None:
    """Swap every linear layer and every activation below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias, quantized=quantized))
        elif isinstance(child, Conv1D):  # GPT-2's linear layer, transposed
            setattr(module, name, PackedLinear(child.weight.T, child.bias, quantized=quantized))
        elif isinstance(child, _ACTIVATIONS):
            setattr(module, name, RowByRow(child))
        else:
            pack(child, quantized=quantized)
