"""``paceline train --smoke``: what it prints, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.core.errors import ResourceExhausted
from paceline.training import smoke as smoke_module
from paceline.training.evaluate import Judged, Score
from paceline.training.smoke import SmokeOptions, SmokeResult
from paceline.training.subject import Trained

Trial = Callable[..., SmokeResult]


def _trial(learned: int, lookup: int, asked: list[Any] | None = None) -> Trial:
    """A trial in which 100 tokens took that many steps."""

    def smoke(kind: str, directory: Path, options: SmokeOptions, *_: Any) -> SmokeResult:
        if asked is not None:
            asked.extend([kind, options, directory.is_dir()])
        return SmokeResult(Trained(directory, 1, 1.0, Judged(Score(100, learned))), Score(100, lookup))

    return smoke


def test_a_drafter_that_beats_lookup_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_module, "smoke", _trial(learned=40, lookup=80))
    result = CliRunner().invoke(app, ["train", "--smoke"])
    assert (result.exit_code, result.stdout) == (0, "held-out texts: mtp 2.50 tokens per step, ngram 1.25\n")


@pytest.mark.parametrize("learned", [80, 81])
def test_a_drafter_that_is_no_better_than_lookup_fails(learned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_module, "smoke", _trial(learned, lookup=80))
    result = CliRunner().invoke(app, ["train", "--smoke"])
    assert result.exit_code == 1
    assert "no better than looking up" in result.stderr


def test_the_result_is_one_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_module, "smoke", _trial(learned=100, lookup=80))
    result = CliRunner().invoke(app, ["train", "--smoke", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"kind": "mtp", "tau": 1.0, "lookup_tau": 1.25, "is_better": False}


def test_the_seed_and_the_kind_are_what_a_trial_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(smoke_module, "smoke", _trial(40, 80, asked))
    CliRunner().invoke(app, ["train", "mtp", "--smoke", "--seed", "7"])
    assert asked == ["mtp", SmokeOptions(seed=7), True]


def test_an_error_in_a_trial_is_told_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def smoke(*_: Any) -> SmokeResult:
        raise ResourceExhausted("out: the disk is full; free some space.")

    monkeypatch.setattr(smoke_module, "smoke", smoke)
    result = CliRunner().invoke(app, ["train", "--smoke"])
    assert result.exit_code == 1
    assert "free some space" in result.stderr


def test_without_a_trial_a_directory_is_needed() -> None:
    result = CliRunner().invoke(app, ["train"])
    assert result.exit_code == 1
    assert "give --out DIRECTORY" in result.stderr
