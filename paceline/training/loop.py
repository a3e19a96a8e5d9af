"""The training loop: from a checkpoint on it always goes the same way, whenever it was interrupted.

The number of steps is settled at the start (from the time budget and the speed of the first steps), since the learning
rate follows it; what is random is drawn from (seed, epoch) and (seed, step).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.training.batches import Batch, Vocabulary, batches
from paceline.training.generate import Sample
from paceline.training.losses import Lesson, LossWeights, place_loss
from paceline.training.students import Student

WARM_UP = 40
"""Steps until the full learning rate."""
FIRST_STEPS = 12
"""Steps after which the speed is known."""
FLAT = 0.3
"""Share of the steps at the full rate; then it falls linearly."""
LOWEST = 0.02
"""Share of the rate at the end."""
TABLE_RATE = 0.3
"""The embedding starts from the target's and moves less."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast."""

    minutes: float = 30.0
    """Time for training itself; 0 with ``steps`` given."""
    steps: int = 0
    """Fixed number of steps; 0 settles it from the minutes."""
    rate: float = 1e-3
    rows: int = 1024
    """Rows of a batch, about."""
    seed: int = 0
    checkpoint_every: int = 200


@dataclass(frozen=True, slots=True)
class Course:
    """What is taught, and how."""

    samples: Sequence[Sample]
    vocabulary: Vocabulary
    block: int
    schedule: Schedule = field(default_factory=Schedule)
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step."""

    step: int
    steps: int
    loss: float
    """Smoothed."""
    accuracy: tuple[float, ...]
    """Per place: share of blocks that are right up to and including it."""
    rows_per_s: float

    @property
    def tau(self) -> float:
        """Estimated mean acceptance length, the target's own token included."""
        return 1.0 + sum(self.accuracy)


def choose_device() -> torch.device:
    """Where training computes: a GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """Owns the optimizer and the checkpoint; the network is on the CPU again when ``run`` returns."""

    def __init__(self, student: Student, course: Course, checkpoint: Path) -> None:
        self._student = student
        self._course = course
        self._schedule = course.schedule
        self._checkpoint = checkpoint
        self._device = choose_device()
        student.network.to(self._device)
        self._optimizer = _optimizer(student.network, course.schedule.rate)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._step, self._steps, self._loss = 0, course.schedule.steps, math.nan
        self._epoch, self._skip = 0, 0
        self._same = torch.cat(
            [
                torch.tensor([len(course.samples), course.block, course.schedule.rows, course.schedule.seed]),
                course.vocabulary.token_ids,
            ]
        )
        if checkpoint.is_file():
            self._restore()

    def run(self, tell: Callable[[Progress], None]) -> None:
        """To the last step. Raises ``ResourceExhausted`` when a checkpoint can't be written."""
        started, first, seen = time.monotonic(), self._step, 0
        for batch in self._batches():
            if self._steps and self._step >= self._steps:
                break
            accuracy, rows = self._learn(batch)
            self._step += 1
            seen += rows
            elapsed = time.monotonic() - started
            if not self._steps and self._step - first >= FIRST_STEPS:
                self._steps = max(self._step, int(self._schedule.minutes * 60 / (elapsed / (self._step - first))))
            tell(Progress(self._step, self._steps, self._loss, accuracy, seen / elapsed))
            if self._step % self._schedule.checkpoint_every == 0:
                self._save()
        self._save()
        self._student.network.to("cpu")

    def _batches(self) -> Iterator[Batch]:
        course = self._course
        while True:
            seed = course.schedule.seed + self._epoch
            epoch = batches(course.samples, course.vocabulary, course.block, course.schedule.rows, seed)
            for index, batch in enumerate(epoch):
                if index >= self._skip:
                    self._skip = index + 1
                    yield batch
            self._epoch, self._skip = self._epoch + 1, 0

    def _learn(self, batch: Batch) -> tuple[tuple[float, ...], int]:
        generator = torch.Generator().manual_seed(self._schedule.seed * 1_000_003 + self._step)
        with torch.autocast(self._device.type, torch.bfloat16):
            loss, hits, count = self._pass(batch.to(self._device), generator)
        share = _rate_share(self._step, self._steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        loss.backward()
        nn.utils.clip_grad_norm_(self._student.network.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        self._loss = value if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * value
        return tuple(hit / max(count, 1) for hit in hits), count

    def _pass(self, batch: Batch, generator: torch.Generator | None) -> tuple[torch.Tensor, list[int], int]:
        chosen, weights = batch.is_scored[..., 0], self._course.weights
        loss, hits = torch.zeros((), device=self._device), []
        alive = torch.ones(int(chosen.sum()), dtype=torch.bool, device=self._device)
        for place, logits in enumerate(self._student.places(batch, generator)):
            columns = (batch.targets, batch.is_scored, batch.top_ids, batch.top_logprobs)
            lesson = Lesson(*(column[chosen][:, place] for column in columns))
            loss = loss + weights.decay**place * place_loss(logits, lesson, weights)
            alive &= lesson.is_scored & (logits.argmax(-1) == lesson.targets)
            hits.append(int(alive.sum()))
        return loss, hits, len(alive)

    def _save(self) -> None:
        state = {
            "network": self._student.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "place": torch.tensor([self._step, self._steps, self._epoch, self._skip]),
            "loss": torch.tensor(self._loss, dtype=torch.float64),
            "same": self._same,
        }
        part = self._checkpoint.with_suffix(".part")
        try:
            self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            os.replace(part, self._checkpoint)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise ResourceExhausted(
                f"out: {self._checkpoint} can't be written ({error}); free some space and start again, it goes on from "
                "the last checkpoint."
            ) from error

    def _restore(self) -> None:
        try:
            state: dict[str, Any] = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            if not torch.equal(state["same"], self._same):
                raise ValueError("it has other samples, tokens, blocks, batches or another seed")
            self._student.network.load_state_dict(state["network"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._step, steps, self._epoch, self._skip = state["place"].tolist()
            self._steps = self._schedule.steps or steps
            self._loss = float(state["loss"])
        except Exception as error:  # whatever the reader of a damaged or foreign file raises
            reason = " ".join(str(error).split())
            raise InvalidRequest(
                f"out: the checkpoint {self._checkpoint} does not fit this training ({reason}); delete it or choose "
                "another --out."
            ) from error


def _rate_share(step: int, steps: int) -> float:
    done = step / steps if steps else 0.0
    return min(1.0, (step + 1) / WARM_UP) * (1.0 if done < FLAT else max(LOWEST, (1.0 - done) / (1.0 - FLAT)))


def _optimizer(network: nn.Module, rate: float) -> torch.optim.Optimizer:
    tables = [value for name, value in network.named_parameters() if "embed" in name]
    others = [value for name, value in network.named_parameters() if "embed" not in name]
    groups = [{"params": others, "lr": rate}, {"params": tables, "lr": TABLE_RATE * rate}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.01)
