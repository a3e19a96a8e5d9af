"""The probe: it finds the padding that a machine needs, and says so when there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from paceline.models.invariance import PADDINGS, settle
from paceline.models.loading import load
from paceline.models.runner import Feed, ModelRunner
from tests.support.tiny_models import random_tokens, run, write_model

Error = Callable[["Machine", int, Sequence[Feed]], float]


class Machine(ModelRunner):
    """A runner on a machine whose kernels err by ``error(machine, rows of the step, feeds)``."""

    def __init__(self, directory: Path, error: Error, *, max_sessions: int = 3, max_context: int = 128) -> None:
        super().__init__(load(directory, torch.float32, max_context=max_context), max_sessions)
        self.steps = 0
        self._error = error

    def logits(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        self.steps += 1
        rows = max(self.min_rows, sum(len(feed.tokens) + len(feed.others) for feed in feeds))
        error = self._error(self, rows, feeds)
        return [one + error for one in super().logits(feeds)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("needed", PADDINGS)
def test_it_finds_the_fewest_rows_that_share_a_kernel(directory: Path, needed: int) -> None:
    machine = Machine(directory, lambda _, rows, __: 0.0 if rows >= needed else 1e-3)
    found = settle(machine)
    assert (found.is_exact, found.min_rows, machine.min_rows, found.num_checks) == (True, needed, needed, 7)
    assert f"padded to {needed} rows" in found.detail


@pytest.mark.parametrize(
    ("culprit", "error"),
    [
        ("again", lambda machine, _, __: 1e-3 * machine.steps),
        ("one row", lambda _, rows, __: 1e-3 * rows),
        ("three rows", lambda _, __, feeds: 1e-3 * (len(feeds[-1].tokens) == 3)),
        ("chunks of 9", lambda _, __, feeds: 1e-3 * (len(feeds[-1].tokens) == 9)),
        ("chunks of 33", lambda _, __, feeds: 1e-3 * (len(feeds[-1].tokens) == 33)),
        ("among others", lambda _, __, feeds: 1e-3 * (len(feeds) > 1)),
        ("beside others", lambda _, __, feeds: 1e-3 * len(feeds[-1].others)),
    ],
)
def test_it_says_plainly_what_differs_when_no_padding_helps(directory: Path, culprit: str, error: Error) -> None:
    machine = Machine(directory, error)
    found = settle(machine)
    assert not found.is_exact
    assert found.detail == f"differs even with 8 rows: {culprit}"
    assert machine.min_rows == PADDINGS[-1]


def test_it_leaves_no_session_behind(directory: Path) -> None:
    machine = Machine(directory, lambda *_: 0.0)
    settle(machine)
    for session in ("probe", "neighbour", "other"):
        machine.open(session)


@pytest.mark.parametrize(("max_sessions", "max_context"), [(1, 128), (3, 6), (1, 2)])
def test_small_machines_are_probed_as_far_as_they_go(directory: Path, max_sessions: int, max_context: int) -> None:
    machine = Machine(directory, lambda *_: 0.0, max_sessions=max_sessions, max_context=max_context)
    assert settle(machine).is_exact
    assert run(machine, random_tokens(max_context), [max_context]).shape[0] == max_context
