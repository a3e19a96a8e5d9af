"""The multi-token network for inference on a CPU: packed weights, tables computed once, one compiled call per part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import get_num_threads
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from paceline.drafters import mtp_kernels
from paceline.drafters.mtp_network import NORM_EPS, Gated, MtpNetwork, Norm, RowNetwork, rates
from paceline.models.kernels import rms_norm
from paceline.models.packed import PackedLinear, Tiles, interleaved
from paceline.models.views import Bits, as_array

EPS = np.float32(NORM_EPS)
_Product = tuple[Tiles, NDArray[np.float32]]
_GatedProduct = tuple[_Product, _Product, NDArray[np.uint8]]
"""Two products and as many bytes as there are numbers between them."""


class PackedRows:
    """Takes the parts of a ``RowNetwork`` over. All rows of a call go through one pass."""

    def __init__(self, network: RowNetwork, dtype: torch.dtype, *, quantized: bool = False) -> None:
        self._dtype, self._quantized = dtype, quantized
        self._words = network.word_norm(network.embedding.weight).to(dtype)
        self._tap_norms = np.stack([self._weight(norm) for norm in network.tap_norm])
        self._no_features = network.no_features.detach().to(dtype)
        self._join = PackedLinear(network.join.weight.detach().to(dtype), quantized=quantized)
        self._head = PackedLinear(network.embedding.weight[:-1].detach().to(dtype), quantized=quantized)
        self._head_norm = self._weight(network.head_norm)

    def _weight(self, norm: Norm) -> Bits:
        return as_array(norm.weight.detach().to(self._dtype))

    def _pack(self, linear: nn.Linear) -> PackedLinear:
        return PackedLinear(linear.weight.detach().to(self._dtype), quantized=self._quantized)

    def _pack_gated(self, layers: Gated) -> _GatedProduct:
        up = interleaved(layers.up.weight.detach().to(self._dtype).chunk(2))
        first, second = PackedLinear(up, quantized=self._quantized), self._pack(layers.down)
        return first.parts, second.parts, np.empty(layers.down.in_features, np.uint8)

    def normed(self, weight: Bits, x: torch.Tensor) -> torch.Tensor:
        """Rows divided by their root mean square."""
        out = torch.empty_like(x)
        rms_norm(as_array(x), weight, EPS, as_array(out))
        return out

    def rows(self, features: torch.Tensor | None, words: torch.Tensor) -> torch.Tensor:
        """[rows, width] from features [rows, features], or None for text only, and own ids [rows]."""
        said = self._words[words]
        if features is None:
            return self._join(torch.cat([self._no_features.expand(len(words), -1), said], -1))
        out = torch.empty(len(words), self._join.out_features, dtype=self._dtype)
        seen = as_array(features.to(self._dtype).contiguous())
        mtp_kernels.join_rows(
            get_num_threads(), seen, as_array(said), self._tap_norms, EPS, self._join.parts, as_array(out)
        )
        return out

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[sessions, vocab]."""
        out = torch.empty(len(states), self._head.out_features, dtype=states.dtype)
        mtp_kernels.score(get_num_threads(), as_array(states), self._head_norm, EPS, self._head.parts, as_array(out))
        return out


class PackedNetwork(PackedRows):
    """Takes the parts of an ``MtpNetwork`` over."""

    def __init__(self, network: MtpNetwork, dtype: torch.dtype, *, quantized: bool = False) -> None:
        super().__init__(network, dtype, quantized=quantized)
        self.shape = network.shape
        self._qkv, self._out = self._pack(network.attention.qkv), self._pack(network.attention.out)
        self._mlp, self._cell = self._pack_gated(network.mlp), self._pack_gated(network.cell)
        norms = (network.attention_norm, network.mlp_norm, network.cell_norm)
        self._norms = [self._weight(norm) for norm in norms]
        self._rates = rates(self.shape.head_size)

    def project(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values [rows, heads, size] of the attention layer, rotated."""
        angles = (positions[:, None].float() * self._rates).repeat(1, 2)
        turns = (angles.cos().numpy(), angles.sin().numpy())
        out = torch.empty(len(x), 3, self.shape.heads, self.shape.head_size, dtype=x.dtype)
        mtp_kernels.project(get_num_threads(), as_array(x), self._norms[0], EPS, self._qkv.parts, turns, as_array(out))
        q, k, v = out.unbind(1)
        return q, k, v

    def states(
        self, x: torch.Tensor, q: torch.Tensor, seen: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """States [sessions, width] after one row each: x [sessions, width], q [sessions, heads, size], and the keys
        and values [rows, heads, size] that each of them sees."""
        mixed = torch.stack(
            [
                F.scaled_dot_product_attention(one[:, None], keys.transpose(0, 1), values.transpose(0, 1)).flatten()
                for one, (keys, values) in zip(q, seen, strict=True)
            ]
        )
        out = x.clone()
        mtp_kernels.finish(
            get_num_threads(), as_array(out), as_array(mixed), self._out.parts, self._norms[1], EPS, self._mlp
        )
        return out

    def advance(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """As ``MtpNetwork.advance``."""
        out = states.clone()
        said = as_array(self._words[words])
        mtp_kernels.advance(get_num_threads(), as_array(out), said, self._norms[2], EPS, self._cell)
        return out
