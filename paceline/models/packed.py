"""Linear layers with weights packed once for the CPU's matrix units (oneDNN), in blocks of rows that share one kernel.

Up to 32 rows a row's bits don't depend on the others. Beyond, oneDNN may take another kernel: an earlier measurement
saw bits change, the one of ADR 12 did not. Hence the blocks.
Activations run row by row: torch computes the last elements of a thread's share with other code than the rest, so
that otherwise a row's bits would depend on how many rows there are and on the number of threads.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

BLOCK = 32
"""Rows of one call at most."""
FEWEST = 8
"""Rows of a further block at least: very few rows may meet another kernel again."""
_EXPECTED_ROWS = 8
"""The packing is laid out for this many."""
_ACTIVATIONS = tuple({one[0] if isinstance(one, tuple) else one for one in ACT2CLS.values()})


class PackedLinear(nn.Module):
    """A drop-in for ``nn.Linear`` in inference; weight [out, in] or several stacked along out."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _EXPECTED_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) <= BLOCK:
            out = self._block(rows)
        else:
            out = torch.cat([self._block(block) for block in rows.split(block_sizes(len(rows)))])
        return out.view(*x.shape[:-1], self.out_features)

    def _block(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")


def block_sizes(num_rows: int) -> list[int]:
    """Sizes of the blocks of a call, none below ``FEWEST`` unless it is the only one."""
    sizes = [BLOCK] * (num_rows // BLOCK)
    rest = num_rows % BLOCK
    if rest and sizes and rest < FEWEST:
        sizes[-1] -= FEWEST - rest
        rest = FEWEST
    return [*sizes, rest] if rest else sizes


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
