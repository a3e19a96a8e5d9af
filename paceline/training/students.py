"""Networks in training: how each makes a block's logits from a batch, and how it starts from the target's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from paceline.drafters.mtp_network import MtpNetwork, causal_mask
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
        has_features = batch.valid
        if generator is not None:
            has_features = has_features & (torch.rand(len(has_features), 1, generator=generator) >= TEXT_ONLY_SHARE)
        mask = causal_mask(batch.valid, network.shape.window)
        rows = network.rows(batch.features, has_features, batch.words)
        chosen = batch.is_scored[..., 0]
        states = network.states(rows, batch.positions, mask)[chosen]
        words = batch.targets[chosen]
        for place in range(self._block):
            if place:
                states = network.advance(states, words[:, place - 1])
            yield network.logits(states)


def start_mtp(network: MtpNetwork, vocabulary: Vocabulary, embeddings: torch.Tensor) -> None:
    """From the target's embeddings [target vocab, width]; other layers start small."""
    with torch.no_grad():
        network.embedding.weight[:-1] = embeddings[vocabulary.token_ids].float()
        network.embedding.weight[-1] = embeddings.float().mean(0)
        for linear in (network.attention.out, network.mlp.down, network.cell.down):
            linear.weight.mul_(QUIET)
