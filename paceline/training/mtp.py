"""``paceline train mtp``: from a target and prompts to an exported drafter, in resumable stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.drafters.mtp import MtpDrafter
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.drafters.trained import TOKEN_IDS, Description, TargetIdentity, TrainedDrafter, write_trained
from paceline.models.loading import LoadedModel
from paceline.training.batches import Vocabulary, batches, likeliest
from paceline.training.calibrate import calibrate
from paceline.training.distil import HISTORY
from paceline.training.evaluate import Score, replay
from paceline.training.generate import Sample
from paceline.training.loop import Course, Progress, Schedule, Trainer
from paceline.training.losses import LossWeights
from paceline.training.shards import read_shard, shard_files
from paceline.training.students import MtpStudent, start_mtp

HELD_OUT = 25
"""Every so many-th sample is not trained on."""
MOST_HELD_OUT = 200
FEWEST_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class MtpOptions:
    """Sizes of the network and how to train it."""

    block: int = 5
    vocab: int = 8192
    mlp: int = 1536
    cell: int = 640
    window: int = 128
    schedule: Schedule = field(default_factory=Schedule)
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it."""

    directory: Path
    num_parameters: int
    coverage: float
    """Share of the target's output that the trimmed vocabulary can say."""
    held_out: Score
    """Real speculative decoding on held-out greedy texts."""


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
    return sample.features is not None and len(sample.tokens) - sample.prompt_length >= 3


@dataclass(frozen=True, slots=True)
class Subject:
    """The target, after its texts were made."""

    identity: TargetIdentity
    embeddings: torch.Tensor
    """[vocab, hidden]"""
    stop_token_ids: Sequence[int]
    train: Sequence[Sample]
    held_out: Sequence[Sample]


def train_mtp(
    subject: Subject, out: Path, options: MtpOptions, record: dict[str, Any], tell: Callable[[Progress], None]
) -> Trained:
    """Train, evaluate and export to ``out``; the checkpoint lies beside it until the export is whole.

    ``record`` goes into the description.
    """
    target, held = subject.identity, subject.held_out
    vocabulary, coverage = choose_vocabulary(subject, options.vocab)
    shape = shape_for(target, len(vocabulary), options)
    torch.manual_seed(options.schedule.seed)
    network = MtpNetwork(shape)
    start_mtp(network, vocabulary, subject.embeddings)
    student = MtpStudent(network, options.block)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    course = Course(subject.train, vocabulary, options.block, options.schedule, options.weights)
    Trainer(student, course, checkpoint).run(tell)
    curves = calibrate(student, batches(held, vocabulary, options.block, 4096, 0), options.block)
    about = Description(
        kind="mtp",
        name=out.name,
        target=target,
        taps=default_taps(target.num_layers),
        history=HISTORY,
        block=options.block,
        shape=dataclasses.asdict(shape),
        calibration=curves,
        training=record,
    )
    weights = {name: tensor.bfloat16() for name, tensor in network.state_dict().items()}
    weights[TOKEN_IDS] = vocabulary.token_ids.int()
    score = evaluate(TrainedDrafter(about, weights), held)
    figures = {"coverage": round(coverage, 4), "held_out_tau": round(score.tau, 3)}
    write_trained(out, dataclasses.replace(about, training={**record, **figures}), weights)
    checkpoint.unlink(missing_ok=True)
    return Trained(out, sum(one.numel() for one in network.parameters()), coverage, score)


def choose_vocabulary(subject: Subject, size: int) -> tuple[Vocabulary, float]:
    """The tokens that the target says most often, and the share of its output that they are."""
    target_vocab = subject.identity.vocab_size
    counts = torch.zeros(target_vocab)
    for sample in subject.train:
        counts += torch.bincount(torch.tensor(sample.tokens[sample.prompt_length :]), minlength=target_vocab)
    vocabulary = Vocabulary(likeliest(counts, size, subject.stop_token_ids), target_vocab)
    return vocabulary, float(counts[vocabulary.token_ids].sum() / counts.sum())


def shape_for(target: TargetIdentity, vocab: int, options: MtpOptions) -> NetworkShape:
    """As wide as the target."""
    taps = default_taps(target.num_layers)
    return NetworkShape(
        vocab=vocab,
        features=len(taps) * target.hidden_size,
        taps=len(taps),
        width=target.hidden_size,
        heads=max(1, target.hidden_size // 64),
        mlp=options.mlp,
        cell=options.cell,
        window=options.window,
    )


def evaluate(trained: TrainedDrafter, held: Sequence[Sample]) -> Score:
    """By real speculative decoding."""
    drafter = MtpDrafter(trained, DrafterSettings(drafter="mtp", threads=torch.get_num_threads()))
    return sum(replay(drafter, held, trained.about.block), Score())
