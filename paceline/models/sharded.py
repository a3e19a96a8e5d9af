"""A model that the library has split over ranks, with parts of ours: plain local weights and sums in a fixed order.

The library's plan (``tp_plan``) says what is split and how; it has loaded just this rank's share of each weight. What
it puts around its modules is replaced, since ``packed`` replaces the modules themselves.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from paceline.core.errors import Unsupported
from paceline.models.ranks import Ranks

_WHOLE = frozenset({"replicate", "replicated_with_grad_allreduce"})
"""Every rank has all of it; such a norm sees the heads of its rank."""


class Summed(nn.Module):
    """A linear layer of which each rank has some of the inputs."""

    def __init__(self, split: nn.Linear, ranks: Ranks) -> None:
        super().__init__()
        self.own = _linear(_local(split.weight), None)
        self._bias = None if split.bias is None else _local(split.bias).detach()
        self._ranks = ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., share of in] to [..., out], the same on all ranks."""
        total = self._ranks.sum(self.own(x))
        return total if self._bias is None else total + self._bias


class Gathered(nn.Module):
    """A linear layer of which each rank has some of the outputs, and all are wanted."""

    def __init__(self, split: nn.Linear, ranks: Ranks) -> None:
        super().__init__()
        self.own = _own(split, ranks)
        self._out, self._share = split.out_features, math.ceil(split.out_features / ranks.size)
        self._ranks = ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out], the same on all ranks."""
        share = self.own(x)
        padded = F.pad(share, (0, self._share - share.shape[-1]))  # the last rank's may be shorter
        return torch.cat(self._ranks.gather(padded), -1)[..., : self._out]


class SharedEmbedding(nn.Module):
    """An embedding of which each rank has some of the tokens."""

    def __init__(self, split: nn.Embedding, ranks: Ranks) -> None:
        super().__init__()
        self._first = ranks.rank * math.ceil(split.num_embeddings / ranks.size)
        self._own, self._ranks = split, ranks
        _restore(split)
        split.weight = nn.Parameter(_local(split.weight), requires_grad=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[...] to [..., hidden]: one rank's rows and zeros of all others."""
        place = token_ids - self._first
        is_mine = (place >= 0) & (place < len(self._own.weight))
        rows = self._own(torch.where(is_mine, place, 0)) if len(self._own.weight) else 0
        return self._ranks.sum(torch.where(is_mine[..., None], rows, 0))


def take_shards(model: Any, ranks: Ranks) -> None:  # noqa: ANN401
    """Swap what the library has split. Raises ``Unsupported`` for ways of splitting that are not known here."""
    makers = {"colwise": _own, "colwise_gather_output": Gathered, "colwise_rep": Gathered, "rowwise": Summed}
    for name, module in list(model.named_modules()):
        style = model.tp_plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is None or style in _WHOLE:
            continue
        parent, _, own = name.rpartition(".")
        if style == "embedding_rowwise" and isinstance(module, nn.Embedding):
            part: nn.Module = SharedEmbedding(module, ranks)
        elif style in makers and isinstance(module, nn.Linear):
            part = makers[style](module, ranks)
        else:
            raise _unknown(model, f"{name} ({style})")
        setattr(model.get_submodule(parent), own, part)
    for name, weight in model.named_parameters():
        if isinstance(weight, DTensor):
            raise _unknown(model, name)


def _unknown(model: Any, what: str) -> Unsupported:  # noqa: ANN401
    return Unsupported(
        f"tensor_parallel: {type(model).__name__} splits {what} in a way that is not served; set tensor_parallel=1 or "
        "choose another model."
    )


def _own(split: nn.Linear, ranks: Ranks) -> nn.Linear:
    """This rank's outputs, for a next layer that wants no others."""
    return _linear(_local(split.weight), None if split.bias is None else _local(split.bias))


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def _local(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local().detach() if isinstance(weight, DTensor) else weight.detach()


def _restore(module: nn.Module) -> None:
    """Take off what the library has put around the forward of the module's class."""
    module.__dict__.pop("forward", None)
