"""What every kind of training starts from and ends with: a target whose texts were made, options, a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from paceline.core.errors import InvalidRequest
from paceline.drafters.description import Description, TargetIdentity
from paceline.models.loading import LoadedModel
from paceline.training.batches import Vocabulary, likeliest
from paceline.training.evaluate import Judged, Score
from paceline.training.generate import Sample
from paceline.training.loop import Schedule
from paceline.training.losses import LossWeights
from paceline.training.shards import read_shard, shard_files

HELD_OUT = 25
"""Every so many-th sample is not trained on."""
MOST_HELD_OUT = 200
FEWEST_SAMPLES = 8
SHORTEST_OUTPUT = 3


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train, whatever the kind."""

    block: int = 5
    vocab: int = 8192
    schedule: Schedule = field(default_factory=Schedule)
    weights: LossWeights = field(default_factory=LossWeights)
    init: Path | None = None
    """Export of the same kind for the same target to go on from; its block and its vocabulary stay."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The target, after its texts were made."""

    identity: TargetIdentity
    embeddings: torch.Tensor
    """[vocab, hidden]"""
    stop_token_ids: Sequence[int]
    train: Sequence[Sample]
    held_out: Sequence[Sample]
    directory: Path | None = None
    """Where the target's files are, its tokenizer among them."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it."""

    directory: Path
    num_parameters: int
    coverage: float
    """Share of the target's output that the trimmed vocabulary can say."""
    judged: Judged
    """Real speculative decoding on held-out texts."""

    @property
    def held_out(self) -> Score:
        """On all of them that were judged."""
        return self.judged.total


def default_taps(num_layers: int) -> tuple[int, ...]:
    """A third and two thirds of the way up, and what the output layer sees (EAGLE-3: low, middle and high)."""
    return (max(1, num_layers // 3), max(1, 2 * num_layers // 3), -1)


def identity(loaded: LoadedModel) -> TargetIdentity:
    """Of a target in memory."""
    config = loaded.model.config.get_text_config()
    return TargetIdentity(
        loaded.name,
        loaded.digest,
        loaded.tokenizer_digest,
        loaded.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
    )


def read_samples(directory: Path) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out). Raises ``InvalidRequest`` when there are too few."""
    samples = [one for file in shard_files(directory) for one in read_shard(file) if _is_usable(one)]
    if len(samples) < FEWEST_SAMPLES:
        raise InvalidRequest(f"data: {directory} has {len(samples)} usable samples; give at least {FEWEST_SAMPLES}.")
    every = min(HELD_OUT, len(samples) // 4)
    held = samples[::every][:MOST_HELD_OUT]
    return [one for i, one in enumerate(samples) if i % every or i // every >= MOST_HELD_OUT], held


def _is_usable(sample: Sample) -> bool:
    is_whole = sample.features is not None and sample.top_ids is not None
    return is_whole and len(sample.tokens) - sample.prompt_length >= SHORTEST_OUTPUT


def choose_vocabulary(subject: Subject, size: int) -> tuple[Vocabulary, float]:
    """The tokens that the target says most often, and the share of its output that they are."""
    counts = _counts(subject)
    vocabulary = Vocabulary(likeliest(counts, size, subject.stop_token_ids), subject.identity.vocab_size)
    return vocabulary, _share(counts, vocabulary)


def coverage(subject: Subject, vocabulary: Vocabulary) -> float:
    """Share of the target's output that a vocabulary can say."""
    return _share(_counts(subject), vocabulary)


def _share(counts: torch.Tensor, vocabulary: Vocabulary) -> float:
    return float(counts[vocabulary.token_ids].sum() / counts.sum())


def _counts(subject: Subject) -> torch.Tensor:
    """How often the target says each of its tokens."""
    counts = torch.zeros(subject.identity.vocab_size)
    for sample in subject.train:
        counts += torch.bincount(torch.tensor(sample.tokens[sample.prompt_length :]), minlength=len(counts))
    return counts


def require_same_target(about: Description, subject: Subject, init: Path) -> None:
    """Raise ``InvalidRequest`` unless an export was trained for this target."""
    if about.target.digest != subject.identity.digest:
        raise InvalidRequest(
            f"init: {init} was trained for another target, {about.target.name}; give that --target, or start without "
            "--init."
        )
