"""Linear layers on packed tiles of weights; a row's bits don't depend on the other rows, however many there are.

Activations of other models' code run row by row: torch computes the last elements of a thread's share with other code
than the rest, so that otherwise a row's bits would depend on how many rows there are and on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import get_num_threads
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from paceline.models.linear import multiply
from paceline.models.tiles import LANES
from paceline.models.views import Bits, as_array

_ACTIVATIONS = tuple({one[0] if isinstance(one, tuple) else one for one in ACT2CLS.values()})


def pair_of(dtype: torch.dtype) -> int:
    """How many neighbours along the depth lie together in a tile."""
    return 2 if dtype == torch.bfloat16 else 1


def tiled(weight: torch.Tensor) -> Bits:
    """[out, in] as tiles [out / LANES, in / pair, LANES, pair], zeros where a number does not divide."""
    pair = pair_of(weight.dtype)
    outputs, inputs = weight.shape
    whole = F.pad(weight.detach(), (0, -inputs % pair, 0, -outputs % LANES))
    return as_array(whole.view(-1, LANES, whole.shape[1] // pair, pair).transpose(1, 2).contiguous())


def wide(bias: torch.Tensor) -> NDArray[np.float32]:
    """A bias [out] in float32, with a number for each lane."""
    padded: NDArray[np.float32] = F.pad(bias.detach().float(), (0, -len(bias) % LANES)).numpy()
    return padded


class PackedLinear(nn.Module):
    """A drop-in for ``nn.Linear`` in inference; weight [out, in] in bfloat16 or float32."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._tiles = tiled(weight)
        self._bias = wide(torch.zeros(self.out_features) if bias is None else bias)
        self._missing = -self.in_features % pair_of(weight.dtype)

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


def pack(module: nn.Module) -> None:
    """Swap every linear layer and every activation below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, Conv1D):  # GPT-2's linear layer, transposed
            setattr(module, name, PackedLinear(child.weight.T, child.bias))
        elif isinstance(child, _ACTIVATIONS):
            setattr(module, name, RowByRow(child))
        else:
            pack(child)
