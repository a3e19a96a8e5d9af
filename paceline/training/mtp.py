"""``paceline train mtp``: the multi-token drafter, from a target's texts to an export."""

from __future__ import annotations

from functools import partial

from paceline.drafters.description import TargetIdentity
from paceline.drafters.mtp import MtpDrafter
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.training.batches import Vocabulary
from paceline.training.blocks import BlockKind, train_blocks
from paceline.training.students import MtpStudent, start_mtp
from paceline.training.subject import Subject, default_taps

MLP, CELL, WINDOW = 1536, 640, 128
"""Sizes that fit a small target; the drafter is as wide as the target."""


def _make(subject: Subject, vocabulary: Vocabulary, block: int) -> MtpStudent:
    network = MtpNetwork(shape_for(subject.identity, len(vocabulary)))
    start_mtp(network, vocabulary, subject.embeddings)
    return MtpStudent(network, block)


def shape_for(target: TargetIdentity, vocab: int) -> NetworkShape:
    """As wide as the target."""
    taps = default_taps(target.num_layers)
    return NetworkShape(
        vocab=vocab,
        features=len(taps) * target.hidden_size,
        taps=len(taps),
        width=target.hidden_size,
        heads=max(1, target.hidden_size // 64),
        mlp=MLP,
        cell=CELL,
        window=WINDOW,
    )


train = partial(train_blocks, BlockKind("mtp", _make, MtpDrafter))
