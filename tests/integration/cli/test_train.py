"""``paceline train --smoke`` as somebody calls it: a target, its texts, a drafter, and what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.training import KINDS
from paceline.training.run import Listener
from paceline.training.smoke import SmokeOptions, SmokeResult, smoke

FILES = {"draft-model": "model.safetensors"}
SMALL = SmokeOptions(target_steps=8, prompts=24, steps=3, block=2)


def test_a_drafter_trained_for_a_minute_gets_further_than_looking_up() -> None:
    result = CliRunner().invoke(app, ["train", "mtp", "--smoke", "--json"])
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["is_better"]
    assert told["tau"] > told["lookup_tau"] >= 1.0


def _run(kind: str, directory: Path) -> tuple[SmokeResult, list[float]]:
    losses: list[float] = []
    directory.mkdir()
    listener = Listener(lambda _: None, lambda _: None, lambda step: losses.append(step.loss))
    return smoke(kind, directory, SMALL, "paceline train --smoke", listener), losses


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_does_the_same(kind: str, tmp_path: Path) -> None:
    (one, losses), (other, other_losses) = _run(kind, tmp_path / "one"), _run(kind, tmp_path / "other")
    assert len(losses) == SMALL.steps
    assert losses == other_losses
    assert (one.trained.held_out, one.lookup) == (other.trained.held_out, other.lookup)
    weights = [directory / "drafter" / FILES.get(kind, "weights.safetensors") for directory in tmp_path.iterdir()]
    assert weights[0].read_bytes() == weights[1].read_bytes()
