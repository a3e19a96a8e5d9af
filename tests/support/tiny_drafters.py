"""Tiny trained drafters with random weights, as ``paceline train`` would export them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from paceline.drafters.description import Description, TargetIdentity
from paceline.drafters.medusa_network import MedusaNetwork, MedusaShape
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape, RowNetwork
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, write_trained
from tests.support.tiny_models import VOCAB

TAPS = (1, 2, -1)
HIDDEN = 16
TOKEN_STEP = 3
"""The drafter knows two of three of the target's tokens."""
SHAPE = NetworkShape(
    vocab=sum(token % TOKEN_STEP != 0 for token in range(VOCAB)),
    features=len(TAPS) * HIDDEN,
    taps=len(TAPS),
    width=32,
    heads=2,
    mlp=48,
    cell=24,
    window=12,
    head_size=16,
)
BLOCK = 5
HEADS = MedusaShape(vocab=SHAPE.vocab, features=SHAPE.features, taps=len(TAPS), width=32, inner=24, heads=BLOCK)
CURVES = ((1.1, 0.2), (0.9, -0.1), (0.8, 0.0))
"""Fewer than places: the last one serves for the others."""


def token_ids() -> torch.Tensor:
    """The target's ids of the drafter's own."""
    return torch.tensor([token for token in range(VOCAB) if token % TOKEN_STEP])


def make_network(seed: int = 0, shape: NetworkShape = SHAPE) -> MtpNetwork:
    """All parts matter: norms and the vector for missing hidden states are not what they start as either."""
    network = MtpNetwork(shape)
    _fill(network, seed)
    return network


def make_heads(seed: int = 0) -> MedusaNetwork:
    """As ``make_network``."""
    network = MedusaNetwork(HEADS)
    _fill(network, seed)
    return network


def _fill(network: RowNetwork, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.3)
    network.eval()


def make_trained(seed: int = 0, **changes: object) -> TrainedDrafter:
    """A multi-token drafter in memory; the weights are float32."""
    return _trained("mtp", make_network(seed), **changes)


def make_medusa(seed: int = 0, **changes: object) -> TrainedDrafter:
    """The heads drafter in memory."""
    return _trained("medusa", make_heads(seed), **changes)


def _trained(kind: str, network: RowNetwork, **changes: object) -> TrainedDrafter:
    about = Description(
        kind=kind,
        name="tiny",
        target=TargetIdentity("target", "model digest", "tokenizer digest", VOCAB, HIDDEN, 3),
        taps=TAPS,
        history=8,
        block=BLOCK,
        shape=dataclasses.asdict(network.shape),
        calibration=CURVES,
        training={"command": "none"},
    )
    weights = {**network.state_dict(), TOKEN_IDS: token_ids().int()}
    return TrainedDrafter(dataclasses.replace(about, **changes), weights)  # type: ignore[arg-type]


def write_drafter(directory: Path, seed: int = 0, trained: TrainedDrafter | None = None) -> Path:
    """On disk."""
    trained = trained or make_trained(seed)
    write_trained(directory, trained.about, trained.weights)
    return directory
