"""Training that goes on from an export, on texts that were served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from paceline.core.errors import InvalidRequest
from paceline.core.types import SamplingParams
from paceline.core.verdicts import Verdict
from paceline.drafters.trained import TOKEN_IDS, read_trained
from paceline.models.loading import model_digest
from paceline.training.distil import DistilOptions
from paceline.training.loop import Schedule
from paceline.training.run import Listener, Plan, run
from paceline.training.subject import Trained, TrainOptions, read_samples
from tests.support.logs import verdict, write_log
from tests.support.tiny_models import random_tokens, write_model

OPTIONS = TrainOptions(3, 64, Schedule(minutes=0.0, steps=2, rows=128))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "target", num_hidden_layers=3)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default sizes fit a target ten times as wide."""
    monkeypatch.setattr("paceline.training.mtp.MLP", 64)
    monkeypatch.setattr("paceline.training.mtp.CELL", 32)
    monkeypatch.setattr("paceline.training.medusa.INNER", 32)


def verdicts(target: Path, count: int) -> list[Verdict]:
    """Of that target; every second text is warm."""
    texts = [tuple(random_tokens(20 + seed % 5, seed=seed)) for seed in range(count)]
    laws = [SamplingParams(), SamplingParams(temperature=0.9, top_p=0.8, seed=3)]
    digest = model_digest(target)
    return [verdict(str(index), text[:8], text[8:], digest, laws[index % 2]) for index, text in enumerate(texts)]


def go(directory: Path, target: Path, kind: str = "mtp", **changes: object) -> tuple[Trained, list[str]]:
    """From a log of 12 texts, unless changes say otherwise; and the stages."""
    if not (directory / "log").exists():
        write_log(directory / "log", *verdicts(target, 12))
    data, stages = directory / "data", []
    plan = Plan(kind, str(target), (), directory / "out", data, DistilOptions(), OPTIONS, "train", directory / "log")
    plan = dataclasses.replace(plan, **changes)  # type: ignore[arg-type]
    return run(plan, Listener(stages.append, lambda _: None, lambda _: None)), stages


def test_a_drafter_is_trained_from_a_log_and_says_so(tmp_path: Path, target: Path) -> None:
    _, stages = go(tmp_path, target)
    about = read_trained(tmp_path / "out", "mtp").about
    assert stages[1] == "the target reads 12 texts of the log again"
    assert about.training is not None
    assert about.training["prompts"] == {"verdict log": 12}


def test_held_out_texts_are_judged_by_the_law_that_they_were_served_by(tmp_path: Path, target: Path) -> None:
    trained, _ = go(tmp_path, target)
    _, held = read_samples(tmp_path / "data")
    laws = [one.sampling for one in held]
    assert {law.top_p for law in laws if law.temperature} == {0.8}
    assert (trained.judged.num_greedy, trained.judged.num_sampled) == (
        sum(not law.temperature for law in laws),
        sum(law.temperature > 0 for law in laws),
    )
    assert trained.judged.num_sampled > 0


def test_a_log_of_another_target_is_refused(tmp_path: Path, target: Path) -> None:
    go(tmp_path, target)
    other = write_model(tmp_path / "other", num_hidden_layers=3, seed=1)
    with pytest.raises(InvalidRequest, match="give the --target that the log is of"):
        go(tmp_path, other, data=tmp_path / "next.data", out=tmp_path / "next")


def test_texts_are_read_again_only_when_the_log_has_changed(tmp_path: Path, target: Path) -> None:
    go(tmp_path, target)
    _, same = go(tmp_path, target)
    assert not any("log" in stage for stage in same)
    write_log(tmp_path / "log", *verdicts(target, 16))
    _, grown = go(tmp_path, target)
    assert grown[1] == "the target reads 16 texts of the log again"
    assert sum(map(len, read_samples(tmp_path / "data"))) == 16


def test_data_of_prompts_are_not_overwritten(tmp_path: Path, target: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").write_text('{"target": "x", "prompts": {}}', "utf-8")
    with pytest.raises(InvalidRequest, match="was not made from a log"):
        go(tmp_path, target)


def test_prompts_and_a_log_together_are_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InvalidRequest, match="give one of both"):
        go(tmp_path, target, prompts=(tmp_path / "prompts.jsonl",))


@pytest.mark.parametrize("kind", ["mtp", "medusa"])
def test_training_goes_on_from_an_export_with_its_words_and_its_block(kind: str, tmp_path: Path, target: Path) -> None:
    """A step of the lowest rate moves nothing that bfloat16 could tell."""
    go(tmp_path, target, kind)
    still = Schedule(minutes=0.0, steps=1, rate=1e-12, rows=128)
    options = dataclasses.replace(OPTIONS, block=5, vocab=20, schedule=still, init=tmp_path / "out")
    go(tmp_path, target, kind, out=tmp_path / "next", train=options)
    first, second = read_trained(tmp_path / "out", kind), read_trained(tmp_path / "next", kind)
    assert second.about.block == 3
    assert torch.equal(first.weights[TOKEN_IDS], second.weights[TOKEN_IDS])
    for name, weight in first.weights.items():
        assert torch.equal(weight, second.weights[name]), name


def test_a_language_model_goes_on_from_its_export(tmp_path: Path, target: Path) -> None:
    go(tmp_path, target, "draft-model")
    still = Schedule(minutes=0.0, steps=1, rate=1e-12, rows=128)
    options = dataclasses.replace(OPTIONS, schedule=still, init=tmp_path / "out")
    go(tmp_path, target, "draft-model", out=tmp_path / "next", train=options)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "next"))
    assert first == second


@pytest.mark.parametrize("kind", ["mtp", "draft-model"])
def test_an_export_for_another_target_is_refused(kind: str, tmp_path: Path, target: Path) -> None:
    go(tmp_path, target, kind)
    other = write_model(tmp_path / "other", num_hidden_layers=3, seed=1)
    options = dataclasses.replace(OPTIONS, init=tmp_path / "out")
    theirs = write_log(tmp_path / "their log", *verdicts(other, 12))
    with pytest.raises(InvalidRequest, match=r"init: .* was trained for another target, target"):
        go(tmp_path, other, kind, log=theirs, out=tmp_path / "next", data=tmp_path / "next.data", train=options)


def test_an_export_of_another_kind_is_refused(tmp_path: Path, target: Path) -> None:
    go(tmp_path, target)
    options = dataclasses.replace(OPTIONS, init=tmp_path / "out")
    with pytest.raises(InvalidRequest, match="holds a drafter of kind 'mtp'"):
        go(tmp_path, target, "medusa", out=tmp_path / "next", train=options)
