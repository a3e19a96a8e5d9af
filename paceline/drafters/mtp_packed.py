"""The multi-token network for inference on a CPU: packed linears, tables computed once, few calls per token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from paceline.drafters.mtp_network import NORM_EPS, Gated, MtpNetwork, Norm, RowNetwork, rotate
from paceline.models.kernels import rms_norm, silu_gate
from paceline.models.packed import PackedLinear
from paceline.models.views import Bits, as_array

EPS = np.float32(NORM_EPS)


class PackedRows:
    """Takes the parts of a ``RowNetwork`` over. All rows of a call go through one pass."""

    def __init__(self, network: RowNetwork, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._taps = network.taps
        self._words = network.word_norm(network.embedding.weight).to(dtype)
        self._tap_norms = [self._weight(norm) for norm in network.tap_norm]
        self._no_features = network.no_features.detach().to(dtype)
        self._join = self._pack(network.join)
        self._head = PackedLinear(network.embedding.weight[:-1].detach().to(dtype))
        self._head_norm = self._weight(network.head_norm)

    def _weight(self, norm: Norm) -> Bits:
        return as_array(norm.weight.detach().to(self._dtype))

    def _pack(self, linear: nn.Linear) -> PackedLinear:
        return PackedLinear(linear.weight.detach().to(self._dtype))

    def _pack_gated(self, layers: Gated) -> tuple[PackedLinear, PackedLinear]:
        return self._pack(layers.up), self._pack(layers.down)

    def _normed(self, weight: Bits, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        rms_norm(as_array(x), weight, EPS, as_array(out))
        return out

    def rows(self, features: torch.Tensor | None, words: torch.Tensor) -> torch.Tensor:
        """[rows, width] from features [rows, features], or None for text only, and own ids [rows]."""
        if features is None:
            seen = self._no_features.expand(len(words), -1)
        else:
            parts = features.to(self._dtype).chunk(self._taps, -1)
            normed = [self._normed(norm, part.contiguous()) for norm, part in zip(self._tap_norms, parts, strict=True)]
            seen = torch.cat(normed, -1)
        return self._join(torch.cat([seen, self._words[words]], -1))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[sessions, vocab]."""
        return self._head(self._normed(self._head_norm, states))

    def _gated(self, layers: tuple[PackedLinear, PackedLinear], x: torch.Tensor) -> torch.Tensor:
        gate_up = layers[0](x)
        gated = torch.empty(len(x), layers[1].in_features, dtype=x.dtype)
        silu_gate(as_array(gate_up), as_array(gated))
        return layers[1](gated)


class PackedNetwork(PackedRows):
    """Takes the parts of an ``MtpNetwork`` over."""

    def __init__(self, network: MtpNetwork, dtype: torch.dtype) -> None:
        super().__init__(network, dtype)
        self.shape = network.shape
        self._qkv, self._out = self._pack(network.attention.qkv), self._pack(network.attention.out)
        self._mlp, self._cell = self._pack_gated(network.mlp), self._pack_gated(network.cell)
        norms = (network.attention_norm, network.mlp_norm, network.cell_norm)
        self._norms = [self._weight(norm) for norm in norms]

    def project(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values [rows, heads, size] of the attention layer, rotated."""
        qkv = self._qkv(self._normed(self._norms[0], x)).view(len(x), 3, self.shape.heads, self.shape.head_size)
        q, k, v = qkv.unbind(1)
        places = positions[:, None].expand(-1, self.shape.heads)
        return (
            rotate(q.unsqueeze(-2), places[..., None]).squeeze(-2),
            rotate(k.unsqueeze(-2), places[..., None]).squeeze(-2),
            v,
        )

    def states(
        self, x: torch.Tensor, q: torch.Tensor, seen: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """States [sessions, width] after one row each: x [sessions, width], q [sessions, heads, size], and the keys
        and values [rows, heads, size] that each of them sees."""
        mixed = [
            F.scaled_dot_product_attention(one[:, None], keys.transpose(0, 1), values.transpose(0, 1)).flatten()
            for one, (keys, values) in zip(q, seen, strict=True)
        ]
        x = x + self._out(torch.stack(mixed))
        return x + self._gated(self._mlp, self._normed(self._norms[1], x))

    def advance(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """As ``MtpNetwork.advance``."""
        inputs = torch.cat([self._normed(self._norms[2], states), self._words[words]], -1)
        return states + self._gated(self._cell, inputs)
