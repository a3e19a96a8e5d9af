"""The training loop: wherever it was interrupted, it goes on to exactly the weights that it would have had."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.training.batches import Batch, Vocabulary
from paceline.training.loop import FIRST_STEPS, Course, Progress, Schedule, Trainer
from paceline.training.losses import LossWeights
from paceline.training.students import MtpStudent, start_mtp
from tests.support.full_disk import full_disk
from tests.support.tiny_texts import FEATURES, VOCAB, make_sample

BLOCK = 3
SHAPE = NetworkShape(VOCAB, FEATURES, taps=3, width=16, heads=1, mlp=24, cell=16, window=8, head_size=16)
SAMPLES = [make_sample(10 + seed % 7, 4, 0, seed=seed) for seed in range(24)]
COURSE = Course(
    SAMPLES, Vocabulary(range(VOCAB), VOCAB), BLOCK, Schedule(minutes=0.0, steps=9, rows=64, checkpoint_every=1)
)
"""About six batches an epoch."""


class _KilledError(Exception):
    pass


def make_student(shape: NetworkShape = SHAPE) -> MtpStudent:
    """The same every time."""
    torch.manual_seed(1)
    network = MtpNetwork(shape)
    start_mtp(network, COURSE.vocabulary, torch.randn(VOCAB, shape.width))
    return MtpStudent(network, BLOCK)


def train(
    checkpoint: Path, course: Course = COURSE, *, killed_after: int = 0
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses by step, and the weights."""
    student, losses = make_student(), []

    def tell(progress: Progress) -> None:
        losses.append(progress.loss)
        if progress.step == killed_after:
            raise _KilledError

    try:
        Trainer(student, course, checkpoint).run(tell)
    except _KilledError:
        assert killed_after
    return losses, student.network.state_dict()


def rescheduled(**changes: object) -> Course:
    schedule = dataclasses.replace(COURSE.schedule, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(COURSE, schedule=schedule)


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    return train(tmp_path_factory.mktemp("whole") / "checkpoint")


@pytest.mark.parametrize("step", range(1, 10))
def test_killed_after_any_step_it_goes_on_as_if_nothing_had_been(
    whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path, step: int
) -> None:
    """What a step taught is lost when it was killed before its checkpoint, and learned again."""
    before, _ = train(tmp_path / "checkpoint", killed_after=step)
    after, weights = train(tmp_path / "checkpoint")
    assert [*before[: step - 1], *after] == whole[0]
    assert are_equal(weights, whole[1])


def test_killed_at_every_step_it_still_gets_there(
    whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    losses = []
    for step in range(2, 10):
        losses += train(tmp_path / "checkpoint", killed_after=step)[0][:1]
    last, weights = train(tmp_path / "checkpoint")
    assert losses + last == whole[0]
    assert are_equal(weights, whole[1])


def test_checkpoints_in_between_are_rarer_than_steps(
    whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    course = rescheduled(checkpoint_every=4)
    train(tmp_path / "checkpoint", course, killed_after=7)
    after, weights = train(tmp_path / "checkpoint", course)
    assert after == whole[0][4:]
    assert are_equal(weights, whole[1])


def test_without_a_checkpoint_it_starts_anew(
    whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    course = rescheduled(checkpoint_every=100)
    train(tmp_path / "checkpoint", course, killed_after=7)
    assert list(tmp_path.iterdir()) == []
    losses, weights = train(tmp_path / "checkpoint", course)
    assert losses == whole[0]
    assert are_equal(weights, whole[1])


def test_a_finished_training_has_nothing_left_to_do(
    whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    train(tmp_path / "checkpoint")
    losses, weights = train(tmp_path / "checkpoint")
    assert losses == []
    assert are_equal(weights, whole[1])


def test_more_steps_than_before_are_made(whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path) -> None:
    train(tmp_path / "checkpoint", rescheduled(steps=4))
    assert len(train(tmp_path / "checkpoint")[0]) == 5


def test_another_seed_learns_otherwise(whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path) -> None:
    assert train(tmp_path / "checkpoint", rescheduled(seed=1))[0] != whole[0]


class _Listening:
    """A student that remembers the seeds of its noise."""

    def __init__(self) -> None:
        self._student = make_student()
        self.network = self._student.network
        self.seeds: list[int] = []

    def places(self, batch: Batch, generator: torch.Generator | None) -> Iterator[torch.Tensor]:
        assert generator is not None
        self.seeds.append(generator.initial_seed())
        return self._student.places(batch, generator)


def test_every_step_of_every_seed_has_noise_of_its_own(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1):
        student = _Listening()
        Trainer(student, rescheduled(seed=seed), tmp_path / f"{seed}").run(lambda _: None)
        seeds += student.seeds
    assert len(set(seeds)) == len(seeds) == 18


def test_it_learns(tmp_path: Path) -> None:
    losses, weights = train(tmp_path / "checkpoint", rescheduled(steps=60, rate=1e-2, checkpoint_every=1000))
    assert losses[-1] < 0.8 * losses[0]
    assert not are_equal(weights, make_student().network.state_dict())


def test_progress_is_told_in_steps_and_estimated_acceptance(tmp_path: Path) -> None:
    told: list[Progress] = []
    Trainer(make_student(), COURSE, tmp_path / "checkpoint").run(told.append)
    assert [(one.step, one.steps) for one in told] == [(step, 9) for step in range(1, 10)]
    for one in told:
        assert len(one.accuracy) == BLOCK
        assert sorted(one.accuracy, reverse=True) == list(one.accuracy)
        assert 1.0 <= one.tau == 1.0 + sum(one.accuracy) <= 1.0 + BLOCK


def test_the_time_budget_becomes_a_number_of_steps_that_a_checkpoint_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes one second here, so that two minutes are 120 steps."""
    clock = iter(range(10_000))
    monkeypatch.setattr("paceline.training.loop.time.monotonic", lambda: float(next(clock)))
    course = rescheduled(minutes=2.0, steps=0, checkpoint_every=FIRST_STEPS)
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        if progress.step == FIRST_STEPS + 1:
            raise _KilledError

    with pytest.raises(_KilledError):
        Trainer(make_student(), course, tmp_path / "checkpoint").run(tell)
    assert [one.steps for one in told] == [0] * (FIRST_STEPS - 1) + [120, 120]
    other = dataclasses.replace(course, schedule=dataclasses.replace(course.schedule, minutes=50.0))
    again = Trainer(make_student(), other, tmp_path / "checkpoint")
    with pytest.raises(_KilledError):
        again.run(tell)
    assert (told[-1].step, told[-1].steps) == (FIRST_STEPS + 1, 120)


MISFITS: dict[str, Course] = {
    "other tokens": dataclasses.replace(COURSE, vocabulary=Vocabulary(range(1, VOCAB), VOCAB)),
    "fewer samples": dataclasses.replace(COURSE, samples=SAMPLES[:-1]),
    "another block": dataclasses.replace(COURSE, block=BLOCK + 1),
    "other batches": rescheduled(rows=65),
    "another seed": rescheduled(seed=1),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_checkpoint_of_another_course_is_refused(tmp_path: Path, case: str) -> None:
    train(tmp_path / "checkpoint", killed_after=3)
    with pytest.raises(InvalidRequest, match=r"checkpoint .* does not fit this training .*other samples"):
        Trainer(make_student(), MISFITS[case], tmp_path / "checkpoint")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "checkpoint", killed_after=3)
    student = make_student(dataclasses.replace(SHAPE, mlp=32))
    with pytest.raises(InvalidRequest, match=r"does not fit this training .*; delete it or choose another --out"):
        Trainer(student, COURSE, tmp_path / "checkpoint")


@pytest.mark.parametrize("blob", [b"", b"noise" * 100, b"cos\nsystem\n(S'touch sprung'\ntR."])
def test_a_damaged_checkpoint_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").write_bytes(blob)
    with pytest.raises(InvalidRequest, match=r"checkpoint .* does not fit this training"):
        Trainer(make_student(), COURSE, tmp_path / "checkpoint")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_the_loss_reach_the_loss(whole: tuple[list[float], dict[str, torch.Tensor]], tmp_path: Path) -> None:
    course = dataclasses.replace(COURSE, weights=LossWeights(overlap=1.0))
    assert train(tmp_path / "checkpoint", course)[0][0] > whole[0][0]


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    train(tmp_path / "checkpoint", killed_after=3)
    before = (tmp_path / "checkpoint").read_bytes()
    with full_disk(), pytest.raises(ResourceExhausted, match=r"can't be written .*; free some space and start again"):
        train(tmp_path / "checkpoint")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    assert (tmp_path / "checkpoint").read_bytes() == before


def test_a_place_where_no_checkpoint_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ResourceExhausted, match=r"out: .*file/checkpoint can't be written"):
        train(tmp_path / "file" / "checkpoint")
