"""``paceline train`` as somebody calls it: what it prints, in words or as JSON, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.drafters.trained import read_trained
from paceline.training import KINDS, trainer
from paceline.training import run as run_module
from tests.support.tiny_models import random_tokens, write_model

OPTIONS = ("--steps", "3", "--max-tokens", "8", "--vocab", "64", "--block", "3")


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, words)])


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.training.mtp.MLP", 64)
    monkeypatch.setattr("paceline.training.mtp.CELL", 32)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "target", num_hidden_layers=3)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [json.dumps({"token_ids": random_tokens(5, seed=seed), "source": "made up"}) for seed in range(12)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path / "prompts.jsonl"


def test_the_help_names_every_kind_and_says_what_options_mean() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert all(kind in result.stdout for kind in KINDS)
    command: Any = typer.main.get_command(app)
    options = [one for one in command.commands["train"].params if one.param_type_name == "option"]
    assert len(options) >= 12
    assert [one.name for one in options if not getattr(one, "help", "")] == []


def test_every_kind_has_a_trainer() -> None:
    assert all(callable(trainer(kind)) for kind in KINDS)


def test_the_result_is_told_in_words(tmp_path: Path, target: Path, prompts: Path) -> None:
    result = call("mtp", "--target", target, "--prompts", prompts, "--out", tmp_path / "out", *OPTIONS)
    assert result.exit_code == 0, result.stderr
    size, tau, *kinds = result.stdout.splitlines()
    assert size == f"{tmp_path / 'out'}: 0.1 M parameters"
    assert tau.startswith("held-out texts, real speculative decoding: 1.")
    counts = [re.fullmatch(r"  (?:greedy|sampled): 1\.\d\d on (\d) texts", line) for line in kinds]
    assert sum(int(count[1]) for count in counts if count is not None) == 4
    for line in (
        "reading the target",
        "the target answers 12 prompts",
        "training on 8 texts, 4 held out",
        "step 3 of 3",
    ):
        assert line in result.stderr
    assert (tmp_path / "out.data" / "data.json").is_file()
    training = read_trained(tmp_path / "out", "mtp").about.training
    assert training is not None
    assert training["prompts"] == {"made up": 12}


def test_the_result_is_one_line_of_json(tmp_path: Path, target: Path, prompts: Path) -> None:
    words = ("--target", target, "--prompts", prompts, "--out", tmp_path / "out", "--data", tmp_path / "texts")
    result = call("mtp", *words, *OPTIONS, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert set(told) == {
        *("directory", "parameters", "coverage", "drafted", "accepted"),
        *("tau", "tau_greedy", "tau_sampled", "texts"),
    }
    assert told["directory"] == str(tmp_path / "out")
    assert 0.0 < told["coverage"] <= 1.0
    assert told["tau"] >= 1.0
    assert told["drafted"] >= told["accepted"] >= 0
    again = json.loads(call("mtp", "--target", target, *words[4:], *OPTIONS, "--json").stdout)
    assert again == told


def test_prompts_may_come_from_several_files(tmp_path: Path, target: Path, prompts: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"token_ids": [5, 6], "source": "elsewhere"}\n', "utf-8")
    words = ("--target", target, "--prompts", prompts, "--prompts", other, "--out", tmp_path / "out")
    assert call("mtp", *words, *OPTIONS).exit_code == 0
    training = read_trained(tmp_path / "out", "mtp").about.training
    assert training is not None
    assert training["prompts"] == {"elsewhere": 1, "made up": 12}


ERRORS: dict[str, tuple[list[Any], str, str]] = {
    "an unknown kind": (["oracle", "--out", "OUT"], "INVALID_ARGUMENT", "choose one of mtp"),
    "no place": (["mtp"], "INVALID_ARGUMENT", "give --out DIRECTORY"),
    "a place with other files": (["mtp", "--out", "FULL"], "INVALID_ARGUMENT", "choose another place"),
    "the root": (["mtp", "--out", "/"], "INVALID_ARGUMENT", "give a directory of the drafter's own"),
    "here": (["mtp", "--out", "."], "INVALID_ARGUMENT", "give a directory of the drafter's own"),
    "no target": (["mtp", "--out", "OUT", "--target", "FULL"], "NOT_FOUND", "has no config.json"),
    "no prompts": (["mtp", "--out", "OUT", "--target", "TARGET"], "INVALID_ARGUMENT", "give --prompts"),
    "missing prompts": (
        ["mtp", "--out", "OUT", "--target", "TARGET", "--prompts", "OUT"],
        "NOT_FOUND",
        "there is no file",
    ),
    "too long answers": (
        ["mtp", "--out", "OUT", "--target", "TARGET", "--prompts", "PROMPTS", "--max-tokens", "256"],
        "INVALID_ARGUMENT",
        "leave no room for a prompt",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_remedy_with_exit_code_1(case: str, tmp_path: Path, target: Path, prompts: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("five years", "utf-8")
    places = {"OUT": tmp_path / "out", "FULL": tmp_path / "full", "TARGET": target, "PROMPTS": prompts}
    words, code, remedy = ERRORS[case]
    result = call(*(places.get(word, word) for word in words))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {code}: " in result.stderr
    assert remedy in result.stderr
    as_json = call(*(places.get(word, word) for word in words), "--json")
    assert as_json.exit_code == 1
    error = json.loads(as_json.stdout)["error"]
    assert error["code"] == code
    assert remedy in error["message"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [("--block", "0"), ("--block", "17"), ("--steps", "-1"), ("--minutes", "0"), ("--vocab", "3"), ("--rate", "0")],
)
def test_numbers_out_of_range_are_refused_before_anything_happens(tmp_path: Path, words: tuple[str, str]) -> None:
    result = call("mtp", "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run", interrupt)
    result = call("mtp", "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "interrupted; the same command goes on from the last checkpoint" in result.stderr
