"""``paceline train`` from prompts to an export: whole, the same after an interruption, or refused with the remedy."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest, NotFound, ResourceExhausted
from paceline.drafters import create_drafter
from paceline.drafters.description import DESCRIPTION
from paceline.drafters.trained import TOKEN_IDS, WEIGHTS, TrainedDrafter, read_trained
from paceline.models.loading import model_digest
from paceline.training.distil import DistilOptions
from paceline.training.evaluate import Score, replay
from paceline.training.loop import Progress, Schedule
from paceline.training.run import MANIFEST, Listener, Plan, run
from paceline.training.subject import Trained, TrainOptions, read_samples
from tests.support.full_disk import full_disk
from tests.support.tiny_models import VOCAB, random_tokens, write_model

STEPS, BLOCK = 4, 3


class _KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "target", num_hidden_layers=3)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default sizes fit a target ten times as wide."""
    monkeypatch.setattr("paceline.training.mtp.MLP", 64)
    monkeypatch.setattr("paceline.training.mtp.CELL", 32)


def write_prompts(path: Path, count: int = 16, seed: int = 0) -> Path:
    lines = [{"token_ids": random_tokens(4 + one % 5, seed=seed + one), "source": "made up"} for one in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def make_plan(directory: Path, target: Path, **changes: object) -> Plan:
    prompts = directory / "prompts.jsonl"
    plan = Plan(
        kind="mtp",
        target=str(target),
        prompts=(prompts if prompts.is_file() else write_prompts(prompts),),
        out=directory / "out",
        data=directory / "data",
        distil=DistilOptions(max_tokens=8),
        train=TrainOptions(BLOCK, 64, Schedule(minutes=0.0, steps=STEPS, rows=128, checkpoint_every=1)),
        command="paceline train mtp",
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def go(plan: Plan, step: Callable[[Progress], None] = lambda _: None) -> tuple[Trained, list[str]]:
    """What came of it, and the stages."""
    stages: list[str] = []
    return run(plan, Listener(stages.append, lambda _: None, step)), stages


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_a_whole_training_exports_a_drafter_that_loads(tmp_path: Path, target: Path) -> None:
    trained, stages = go(make_plan(tmp_path, target))
    assert stages == [
        f"reading the target {target}",
        "the target answers 16 prompts",
        "training on 12 texts, 4 held out",
    ]
    assert trained.directory == tmp_path / "out"
    assert names(tmp_path) == ["data", "out", "prompts.jsonl"]
    assert names(tmp_path / "out") == [DESCRIPTION, WEIGHTS]
    drafter = create_drafter(DrafterSettings(drafter="mtp", model=str(trained.directory)))
    assert (drafter.info.name, drafter.info.max_window, drafter.info.vocab_size) == ("mtp out", BLOCK, VOCAB)
    assert drafter.info.needs.hidden_states == (1, 2, -1)


def test_an_export_says_whom_it_fits_and_how_it_came_about(tmp_path: Path, target: Path) -> None:
    trained, _ = go(make_plan(tmp_path, target))
    about = read_trained(tmp_path / "out", "mtp").about
    assert (about.target.name, about.target.digest) == ("target", model_digest(target))
    assert (about.block, len(about.calibration), about.shape["vocab"]) == (BLOCK, BLOCK, 64)
    assert about.training is not None
    assert (about.training["command"], about.training["prompts"]) == ("paceline train mtp", {"made up": 16})
    assert about.training["coverage"] == round(trained.coverage, 4)
    judged = trained.judged
    assert about.training["held_out_tau"] == round(trained.held_out.tau, 3)
    assert about.training["held_out_tau_greedy"] == round(judged.greedy.tau, 3)
    assert about.training["held_out_tau_sampled"] == (round(judged.sampled.tau, 3) if judged.num_sampled else None)
    assert about.training["held_out_texts"] == {
        "greedy": judged.num_greedy, "sampled": judged.num_sampled, "left_out": 0
    }  # fmt: skip


def test_the_figures_are_those_of_the_exported_drafter(tmp_path: Path, target: Path) -> None:
    trained, _ = go(make_plan(tmp_path, target))
    _, held = read_samples(tmp_path / "data")
    drafter = create_drafter(DrafterSettings(drafter="mtp", model=str(tmp_path / "out")))
    assert sum(replay(drafter, held, BLOCK), Score()) == trained.held_out
    assert trained.held_out.num_tokens == sum(len(one.tokens) - one.prompt_length - 1 for one in held)
    weights = read_trained(tmp_path / "out", "mtp").weights
    assert trained.num_parameters == sum(one.numel() for name, one in weights.items() if name != TOKEN_IDS)


def equal(one: TrainedDrafter, other: TrainedDrafter) -> bool:
    return one.about == other.about and all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("step", [1, 3, STEPS])
def test_an_interrupted_training_ends_in_the_same_drafter(tmp_path: Path, target: Path, step: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    go(make_plan(tmp_path / "a", target))

    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise _KilledError

    with pytest.raises(_KilledError):
        go(make_plan(tmp_path / "b", target), kill)
    assert not (tmp_path / "b" / "out").exists()
    steps: list[int] = []
    go(make_plan(tmp_path / "b", target), lambda progress: steps.append(progress.step))
    assert steps == list(range(step, STEPS + 1))
    assert equal(*(read_trained(tmp_path / name / "out", "mtp") for name in "ab"))


def test_data_can_be_trained_on_again_without_prompts(tmp_path: Path, target: Path) -> None:
    go(make_plan(tmp_path, target))
    again = make_plan(tmp_path, target, prompts=(), out=tmp_path / "other" / "out")
    _, stages = go(again)
    assert "the target answers 16 prompts" not in stages
    assert equal(*(read_trained(directory / "out", "mtp") for directory in (tmp_path, tmp_path / "other")))


def test_training_again_replaces_the_drafter(tmp_path: Path, target: Path) -> None:
    go(make_plan(tmp_path, target))
    first = read_trained(tmp_path / "out", "mtp")
    other = TrainOptions(BLOCK, 64, Schedule(minutes=0.0, steps=STEPS, rows=128, seed=1))
    go(make_plan(tmp_path, target, train=other))
    assert not equal(first, read_trained(tmp_path / "out", "mtp"))
    assert names(tmp_path) == ["data", "out", "prompts.jsonl"]


def test_an_export_that_fails_leaves_the_former_one_and_can_be_made_up_for(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(make_plan(tmp_path, target))
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    plan = make_plan(tmp_path, target, train=TrainOptions(2, 64, Schedule(minutes=0.0, steps=2, rows=128)))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(ResourceExhausted, match=r"out: .*out can't be written .*No space left"):
            go(plan)
    assert names(tmp_path) == ["data", "out", "out.checkpoint", "prompts.jsonl"]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before
    steps: list[Progress] = []
    go(plan, steps.append)
    assert steps == []
    assert read_trained(tmp_path / "out", "mtp").about.block == 2
    assert names(tmp_path) == ["data", "out", "prompts.jsonl"]


def test_a_full_disk_while_texts_are_made(tmp_path: Path, target: Path) -> None:
    plan = make_plan(tmp_path, target)
    with full_disk(), pytest.raises(ResourceExhausted, match=r"data: .*00000\.safetensors can't be written"):
        go(plan)
    assert names(tmp_path) == ["data", "prompts.jsonl"]
    assert names(tmp_path / "data") == [MANIFEST]
    assert go(plan)[0].held_out.num_steps > 0


def test_a_full_disk_while_a_checkpoint_is_written(tmp_path: Path, target: Path) -> None:
    plan = make_plan(tmp_path, target)
    most = 0

    def fill(progress: Progress) -> None:
        nonlocal most
        most = progress.step

    go(dataclasses.replace(plan, out=tmp_path / "first"))
    with full_disk(), pytest.raises(ResourceExhausted, match=r"out: .*out\.checkpoint can't be written"):
        go(dataclasses.replace(plan, prompts=()), fill)
    assert most == 1
    assert names(tmp_path) == ["data", "first", "prompts.jsonl"]


def refused(plan: Plan, kind: type[Exception], message: str) -> None:
    """Before the target is even read."""
    stages: list[str] = []
    with pytest.raises(kind, match=message):
        run(plan, Listener(stages.append, lambda _: None, lambda _: None))
    assert stages == []


def test_an_unknown_kind_is_refused(tmp_path: Path, target: Path) -> None:
    refused(make_plan(tmp_path, target, kind="oracle"), InvalidRequest, "kind: 'oracle' can't be trained; choose .*mtp")


def test_a_place_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, target: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("five years", "utf-8")
    refused(
        make_plan(tmp_path, target), InvalidRequest, "out holds something else than a drafter; choose another place"
    )
    (tmp_path / "file").write_text("", "utf-8")
    refused(make_plan(tmp_path, target, out=tmp_path / "file"), InvalidRequest, "file holds something else")
    for nameless in (Path("."), Path("/")):
        refused(make_plan(tmp_path, target, out=nameless), InvalidRequest, "give a directory of the drafter's own")
    assert names(tmp_path / "out") == ["thesis.txt"]


def test_an_empty_directory_may_be_replaced(tmp_path: Path, target: Path) -> None:
    (tmp_path / "out").mkdir()
    go(make_plan(tmp_path, target))
    assert names(tmp_path / "out") == [DESCRIPTION, WEIGHTS]


def test_prompts_or_a_target_that_are_not_there_are_named(tmp_path: Path, target: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no file .*nowhere\.jsonl"):
        go(make_plan(tmp_path, target, prompts=(tmp_path / "nowhere.jsonl",)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"has no config\.json"):
        go(make_plan(tmp_path, tmp_path / "empty"))
    assert names(tmp_path) == ["empty", "prompts.jsonl"]


def test_too_few_prompts_are_refused(tmp_path: Path, target: Path) -> None:
    plan = make_plan(tmp_path, target, prompts=(write_prompts(tmp_path / "few.jsonl", 5),))
    with pytest.raises(InvalidRequest, match="usable samples; give at least 8"):
        go(plan)


def test_data_of_another_target_are_refused(tmp_path: Path, target: Path) -> None:
    go(make_plan(tmp_path, target))
    other = write_model(tmp_path / "other", num_hidden_layers=3, seed=1)
    for prompts in ((), (tmp_path / "prompts.jsonl",)):
        plan = make_plan(tmp_path, other, prompts=prompts)
        with pytest.raises(InvalidRequest, match="was made by another target; choose another --data"):
            go(plan)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"target": "x"}', '{"target": "x", "prompts": 5}'])
def test_data_that_nothing_is_known_of_are_refused(tmp_path: Path, target: Path, content: str | None) -> None:
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / MANIFEST).write_text(content, "utf-8")
    with pytest.raises(InvalidRequest, match=f"data: .*{MANIFEST} can't be read .*give --prompts, or another --data"):
        go(make_plan(tmp_path, target, prompts=()))


def test_a_place_where_data_can_not_be_written_is_named(tmp_path: Path, target: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ResourceExhausted, match=r"data: .* can't be written .*or choose another --data"):
        go(make_plan(tmp_path, target, data=tmp_path / "file" / "data"))
