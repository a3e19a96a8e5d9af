"""Networks in training: how each makes a block's logits from a batch, and how it starts from the target's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from paceline.drafters.medusa_network import MedusaNetwork
from paceline.drafters.mtp_network import MtpNetwork, RowNetwork, causal_mask
from paceline.training.batches import Batch, Vocabulary

TEXT_ONLY_SHARE = 0.1
"""Share of samples that are learned without hidden states, so that the drafter also works where none are sent."""
QUIET = 0.2
"""Factor on what layers add at the start: the tied output layer already makes sense of the embeddings."""


class Student(Protocol):
    """What the loop trains."""

    @property
    def network(self) -> nn.Module:
        """Whose parameters are trained and exported."""

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        """Logits [n, vocab] of each place of the block, for the rows whose first place is scored.

        Later places are given the tokens that were right (what was wrong ends a block anyway). With a generator
        some hidden states are left out.
        """


class MtpStudent:
    """The multi-token drafter."""

    def __init__(self, network: MtpNetwork, block: int) -> None:
        self.network = network
        self._block = block

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        """See ``Student``."""
        network = self.network
        mask = causal_mask(batch.valid, network.shape.window)
        rows = network.rows(batch.features, has_features(batch, generator), batch.words)
        chosen = batch.is_scored[..., 0]
        states = network.states(rows, batch.positions, mask)[chosen]
        words = batch.targets[chosen]
        for place in range(self._block):
            if place:
                states = network.advance(states, words[:, place - 1])
            yield network.logits(states)


class MedusaStudent:
    """Heads on the newest hidden state."""

    def __init__(self, network: MedusaNetwork, block: int) -> None:
        self.network = network
        self._block = block

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        """See ``Student``; here no place is given what was right before it."""
        network, chosen = self.network, batch.is_scored[..., 0]
        seen = has_features(batch, generator)[chosen]
        rows = network.rows(batch.features[chosen], seen, batch.words[chosen])
        for place in range(self._block):
            yield network.logits(network.states(rows, place))


class ModelStudent:
    """A language model: text alone, one place, since it goes on from its own tokens by itself."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - a causal model of transformers
        self.network = network

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        """See ``Student``; row i feeds token i + 1. What is padded comes last, so that no row looks at it."""
        states = self.network.model(input_ids=batch.words, position_ids=batch.positions + 1, use_cache=False)
        yield self.network.lm_head(states.last_hidden_state[batch.is_scored[..., 0]])


def has_features(batch: Batch, generator: torch.Generator | None) -> torch.Tensor:
    """[batch, rows]: which rows are learned with hidden states; all of them without a generator."""
    if generator is None:
        return batch.valid
    is_read = torch.rand(len(batch.valid), 1, generator=generator) >= TEXT_ONLY_SHARE
    return batch.valid & is_read.to(batch.valid.device)


def start_mtp(network: MtpNetwork, vocabulary: Vocabulary, embeddings: torch.Tensor) -> None:
    """From the target's embeddings [target vocab, width]; other layers start small."""
    _start_table(network, vocabulary, embeddings)
    _quieten(network.attention.out, network.mlp.down, network.cell.down)


def start_medusa(network: MedusaNetwork, vocabulary: Vocabulary, embeddings: torch.Tensor) -> None:
    """As ``start_mtp``."""
    _start_table(network, vocabulary, embeddings)
    _quieten(*(head.down for head in network.heads))


def _start_table(network: RowNetwork, vocabulary: Vocabulary, embeddings: torch.Tensor) -> None:
    with torch.no_grad():
        network.embedding.weight[:-1] = embeddings[vocabulary.token_ids].float()
        network.embedding.weight[-1] = embeddings.float().mean(0)


def _quieten(*linears: nn.Linear) -> None:
    with torch.no_grad():
        for linear in linears:
            linear.weight.mul_(QUIET)
