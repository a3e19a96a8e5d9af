"""Drafters that guess blocks, from a target's texts to an export: what their kinds of training have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.ports import Drafter
from paceline.drafters.description import Description
from paceline.drafters.learned import load_weights
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, read_trained, write_trained
from paceline.training.batches import Vocabulary
from paceline.training.calibrate import BARE, calibrate
from paceline.training.distil import HISTORY
from paceline.training.evaluate import Judged, judge
from paceline.training.generate import Sample
from paceline.training.loop import Course, Progress, Trainer
from paceline.training.replayable import is_replayable
from paceline.training.students import Student
from paceline.training.subject import (
    Subject,
    Trained,
    TrainOptions,
    choose_vocabulary,
    coverage,
    default_taps,
    require_same_target,
)


@dataclass(frozen=True, slots=True)
class BlockKind:
    """What differs."""

    name: str
    make: Callable[[Subject, Vocabulary, int], Student]
    """A student for blocks of that many tokens, as it starts."""
    drafter: Callable[[TrainedDrafter, DrafterSettings], Drafter]


def train_blocks(
    kind: BlockKind,
    subject: Subject,
    out: Path,
    options: TrainOptions,
    record: dict[str, Any],
    tell: Callable[[Progress], None],
) -> Trained:
    """Train, evaluate and export to ``out``; the checkpoint lies beside it until the export is whole.

    ``record`` goes into the description.
    """
    student, vocabulary, share, block = _begin(kind, subject, options)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    course = Course(subject.train, vocabulary, block, options.schedule, options.weights)
    Trainer(student, course, checkpoint).run(tell)
    trained = _calibrated(kind, _describe(kind, student, vocabulary, subject, out.name, block), subject.held_out)
    judged = evaluate(kind, trained, subject.held_out)
    figures = {"coverage": round(share, 4), **judged.figures("held_out_")}
    write_trained(out, dataclasses.replace(trained.about, training={**record, **figures}), trained.weights)
    checkpoint.unlink(missing_ok=True)
    return Trained(out, sum(one.numel() for one in student.network.parameters()), share, judged)


def _begin(kind: BlockKind, subject: Subject, options: TrainOptions) -> tuple[Student, Vocabulary, float, int]:
    """A student, its words and what share they cover, and its block: anew, or as an export left them."""
    torch.manual_seed(options.schedule.seed)
    if options.init is None:
        vocabulary, share = choose_vocabulary(subject, options.vocab)
        return kind.make(subject, vocabulary, options.block), vocabulary, share, options.block
    former = read_trained(options.init, kind.name)
    require_same_target(former.about, subject, options.init)
    vocabulary = Vocabulary(former.token_ids.tolist(), subject.identity.vocab_size)
    student = kind.make(subject, vocabulary, former.about.block)
    load_weights(student.network, former)
    return student, vocabulary, coverage(subject, vocabulary), former.about.block


def _describe(
    kind: BlockKind, student: Student, vocabulary: Vocabulary, subject: Subject, name: str, block: int
) -> TrainedDrafter:
    about = Description(
        kind=kind.name,
        name=name,
        target=subject.identity,
        taps=default_taps(subject.identity.num_layers),
        history=HISTORY,
        block=block,
        shape=dataclasses.asdict(student.network.shape),
        calibration=(BARE,) * block,
    )
    weights = {key: tensor.bfloat16() for key, tensor in student.network.state_dict().items()}
    weights[TOKEN_IDS] = vocabulary.token_ids.int()
    return TrainedDrafter(about, weights)


def _calibrated(kind: BlockKind, trained: TrainedDrafter, held: Sequence[Sample]) -> TrainedDrafter:
    """With curves from greedy texts and from those that can be replayed at a temperature; as greedy without any."""
    greedy = [one for one in held if not one.temperature]
    warm = [one for one in held if one.temperature and is_replayable(one)]
    drafter, block = _make(kind, trained), trained.about.block
    curves = calibrate(drafter, greedy or warm, block)
    warm_curves = calibrate(drafter, warm, block) if greedy and warm else ()
    about = dataclasses.replace(trained.about, calibration=curves, warm_calibration=warm_curves)
    return TrainedDrafter(about, trained.weights)


def evaluate(kind: BlockKind, trained: TrainedDrafter, held: Sequence[Sample]) -> Judged:
    """By real speculative decoding."""
    return judge(_make(kind, trained), held, trained.about.block)


def _make(kind: BlockKind, trained: TrainedDrafter) -> Drafter:
    return kind.drafter(trained, DrafterSettings(drafter=kind.name, threads=torch.get_num_threads()))
