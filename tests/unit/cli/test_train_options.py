"""``paceline train``: what its options ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.training import run as run_module
from paceline.training.evaluate import Judged
from paceline.training.run import Plan
from paceline.training.subject import Trained


def planned(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Plan:
    plans: list[Plan] = []

    def run(plan: Plan, _: object) -> Trained:
        plans.append(plan)
        return Trained(plan.out, 1, 1.0, Judged())

    monkeypatch.setattr(run_module, "run", run)
    assert CliRunner().invoke(app, ["train", *arguments]).exit_code == 0
    [plan] = plans
    return plan


def test_a_log_and_a_drafter_to_go_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(["medusa", "--from-log", "log", "--init", "now", "--out", "next"], monkeypatch)
    assert (plan.kind, plan.log, plan.train.init) == ("medusa", Path("log"), Path("now"))
    assert (plan.out, plan.data, plan.prompts) == (Path("next"), Path("next.data"), ())


def test_without_them_training_begins_anew_from_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(["--prompts", "a.jsonl", "--prompts", "b.jsonl", "--out", "next"], monkeypatch)
    assert (plan.kind, plan.log, plan.train.init) == ("mtp", None, None)
    assert plan.prompts == (Path("a.jsonl"), Path("b.jsonl"))
