"""``paceline train mtp``: the multi-token drafter, from a target's texts to an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from paceline.config.settings import DrafterSettings
from paceline.drafters.description import Description, TargetIdentity
from paceline.drafters.mtp import MtpDrafter
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, write_trained
from paceline.training.batches import batches
from paceline.training.calibrate import calibrate
from paceline.training.distil import HISTORY
from paceline.training.evaluate import Score, replay
from paceline.training.generate import Sample
from paceline.training.loop import Course, Progress, Trainer
from paceline.training.students import MtpStudent, start_mtp
from paceline.training.subject import Subject, Trained, TrainOptions, choose_vocabulary, default_taps

MLP, CELL, WINDOW = 1536, 640, 128
"""Sizes that fit a small target; the drafter is as wide as the target."""


def train(
    subject: Subject, out: Path, options: TrainOptions, record: dict[str, Any], tell: Callable[[Progress], None]
) -> Trained:
    """Train, evaluate and export to ``out``; the checkpoint lies beside it until the export is whole.

    ``record`` goes into the description.
    """
    target, held = subject.identity, subject.held_out
    vocabulary, coverage = choose_vocabulary(subject, options.vocab)
    shape = shape_for(target, len(vocabulary))
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


def evaluate(trained: TrainedDrafter, held: Sequence[Sample]) -> Score:
    """By real speculative decoding."""
    drafter = MtpDrafter(trained, DrafterSettings(drafter="mtp", threads=torch.get_num_threads()))
    return sum(replay(drafter, held, trained.about.block), Score())
