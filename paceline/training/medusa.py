"""``paceline train medusa``: heads on the newest hidden state, from a target's texts to an export."""

from __future__ import annotations

from functools import partial

from paceline.drafters.description import TargetIdentity
from paceline.drafters.medusa import MedusaDrafter
from paceline.drafters.medusa_network import MedusaNetwork, MedusaShape
from paceline.training.batches import Vocabulary
from paceline.training.blocks import BlockKind, train_blocks
from paceline.training.students import MedusaStudent, start_medusa
from paceline.training.subject import Subject, default_taps

INNER = 512
"""Width inside a head at least; otherwise as the target's."""


def _make(subject: Subject, vocabulary: Vocabulary, block: int) -> MedusaStudent:
    network = MedusaNetwork(shape_for(subject.identity, len(vocabulary), block))
    start_medusa(network, vocabulary, subject.embeddings)
    return MedusaStudent(network, block)


def shape_for(target: TargetIdentity, vocab: int, block: int) -> MedusaShape:
    """As wide as the target."""
    taps, width = len(default_taps(target.num_layers)), target.hidden_size
    inner = max(INNER, width)
    return MedusaShape(vocab=vocab, features=taps * width, taps=taps, width=width, inner=inner, heads=block)


train = partial(train_blocks, BlockKind("medusa", _make, MedusaDrafter))
