"""The network of the multi-token drafter: one look at the target's hidden states, then a block of guesses.

With h_i the target's hidden states at position i and x_i the tokens, row i joins h_i with the embedding of x_{i+1},
looks back at the rows before it (one attention layer, ``window`` positions) and yields the state s_{i+1}, from which
x_{i+2} is guessed. Further tokens of the block come from a light recurrent cell, s_{i+j} = s_{i+j-1} + cell(s_{i+j-1},
x_{i+j}): pure parallel heads lose acceptance at later positions, a cell recovers it (REFERENCES 2: Hydra, DSpark).
Rows without hidden states (text only) get a learned vector in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Sizes of the network."""

    vocab: int
    """Tokens that can be guessed. Row ``vocab`` of the embedding, to which the output layer is tied, is all others."""
    features: int
    """taps * hidden of the target."""
    taps: int
    width: int
    heads: int
    mlp: int
    cell: int
    window: int = 128
    """Rows that a row sees, itself included."""
    head_size: int = 64


NORM_EPS = 1e-5


class Norm(nn.Module):
    """Root mean square norm, computed in float32 whatever comes in."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., size], float32."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), NORM_EPS)


class Attention(nn.Module):
    """Causal attention over the last ``window`` rows, rotary positions."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        size = shape.heads * shape.head_size
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * size, bias=False)
        self.out = nn.Linear(size, shape.width, bias=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [batch, rows, width], positions [batch, rows], mask [batch, 1, rows, rows]."""
        batch, rows, _ = x.shape
        q, k, v = self.qkv(x).view(batch, rows, 3, self.shape.heads, self.shape.head_size).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, positions[:, None]), rotate(k, positions[:, None])
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        return self.out(out.transpose(1, 2).reshape(batch, rows, -1))


def rotate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al., 2021) of x [..., rows, size] at positions [..., rows]."""
    half = x.shape[-1] // 2
    angles = positions[..., None].float() * rates(x.shape[-1]).to(x.device)
    cosine, sine = angles.cos(), angles.sin()
    a, b = x[..., :half].float(), x[..., half:].float()
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1).to(x.dtype)


def rates(size: int) -> torch.Tensor:
    """[size / 2] by which the angles of a head's dimensions grow from one position to the next."""
    half = size // 2
    return torch.as_tensor(10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half))


class Gated(nn.Module):
    """SwiGLU (Shazeer, 2020)."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, 2 * inner, bias=False)
        self.down = nn.Linear(inner, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        gate, up = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class RowShape(Protocol):
    """Sizes that such networks have in common; see ``NetworkShape``."""

    @property
    def vocab(self) -> int: ...  # noqa: D102
    @property
    def features(self) -> int: ...  # noqa: D102
    @property
    def taps(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102


class RowNetwork(nn.Module):
    """What networks share that join hidden states and words to rows, and guess with the table of their words."""

    def __init__(self, shape: RowShape) -> None:
        super().__init__()
        self.shape: Any = shape
        self.taps = shape.taps
        self.embedding = nn.Embedding(shape.vocab + 1, shape.width)
        self.tap_norm = nn.ModuleList([Norm(shape.features // shape.taps) for _ in range(shape.taps)])
        self.no_features = nn.Parameter(torch.zeros(shape.features))
        self.word_norm = Norm(shape.width)
        self.join = nn.Linear(shape.features + shape.width, shape.width, bias=False)
        self.head_norm = Norm(shape.width)

    def rows(self, features: torch.Tensor, has_features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """[..., width]; features [..., features], has_features and words [...]."""
        parts = features.float().unflatten(-1, (self.taps, -1)).unbind(-2)
        normed = torch.cat([norm(part) for norm, part in zip(self.tap_norm, parts, strict=True)], -1)
        normed = torch.where(has_features[..., None], normed, self.no_features)
        return self.join(torch.cat([normed, self.word_norm(self.embedding(words))], -1))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[..., vocab]."""
        return F.linear(self.head_norm(states), self.embedding.weight[:-1])


class MtpNetwork(RowNetwork):
    """All parts, in the form in which they are trained and stored."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__(shape)
        self.attention_norm = Norm(shape.width)
        self.attention = Attention(shape)
        self.mlp_norm = Norm(shape.width)
        self.mlp = Gated(shape.width, shape.mlp, shape.width)
        self.cell_norm = Norm(shape.width)
        self.cell = Gated(2 * shape.width, shape.cell, shape.width)

    def states(self, x: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States after each row, from ``rows`` [batch, rows, width]."""
        x = x + self.attention(self.attention_norm(x), positions, mask)
        return x + self.mlp(self.mlp_norm(x))

    def advance(self, states: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """One token further: states [..., width], the token just guessed [...]."""
        inputs = torch.cat([self.cell_norm(states), self.word_norm(self.embedding(words))], -1)
        return states + self.cell(inputs)


def causal_mask(valid: torch.Tensor, window: int) -> torch.Tensor:
    """[batch, 1, rows, rows] from valid [batch, rows]: a row sees itself and the valid ones in its window."""
    rows = torch.arange(valid.shape[1], device=valid.device)
    distance = rows[:, None] - rows[None, :]
    seen = (distance >= 0) & (distance < window)
    return (seen & (valid[:, None, :] | (distance == 0)))[:, None]
