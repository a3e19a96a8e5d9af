"""Heads on the newest hidden state (Cai et al., 2024): one per place of the block, none knows what the others say.

With h_i the target's hidden states at position i and x_i the tokens, a row joins h_i with the embedding of x_{i+1},
as in the multi-token network; head j guesses x_{i+2+j} from it alone. The output layer is the table of words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from paceline.drafters.mtp_network import Norm, RowNetwork
from paceline.drafters.mtp_packed import PackedRows


@dataclass(frozen=True, slots=True)
class MedusaShape:
    """Sizes of the network."""

    vocab: int
    """Tokens that can be guessed. Row ``vocab`` of the embedding, to which the output layer is tied, is all others."""
    features: int
    """taps * hidden of the target."""
    taps: int
    width: int
    inner: int
    """Width inside a head."""
    heads: int
    """Places of a block."""


class Head(nn.Module):
    """What a place adds to the row: a residual block."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width]."""
        return self.down(F.silu(self.up(x)))


class MedusaNetwork(RowNetwork):
    """All parts, in the form in which they are trained and stored."""

    def __init__(self, shape: MedusaShape) -> None:
        super().__init__(shape)
        self.row_norm = Norm(shape.width)
        self.heads = nn.ModuleList([Head(shape.width, shape.inner) for _ in range(shape.heads)])

    def states(self, rows: torch.Tensor, place: int) -> torch.Tensor:
        """States [..., width] from which the token at a place is guessed."""
        return rows + self.heads[place](self.row_norm(rows))


class PackedMedusa(PackedRows):
    """Takes the parts of a ``MedusaNetwork`` over."""

    def __init__(self, network: MedusaNetwork, dtype: torch.dtype, *, quantized: bool = False) -> None:
        super().__init__(network, dtype, quantized=quantized)
        self._row_norm = self._weight(network.row_norm)
        self._heads = [(self._pack(head.up), self._pack(head.down)) for head in network.heads]

    def states(self, rows: torch.Tensor, place: int) -> torch.Tensor:
        """As ``MedusaNetwork.states``."""
        up, down = self._heads[place]
        return rows + down(F.silu(up(self.normed(self._row_norm, rows))))
