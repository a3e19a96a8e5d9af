"""What is written beside a result may be read by others: no places of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli.machine import command


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("--prompts", "--prompts"),
        ("deploy/prompts/a.jsonl", "deploy/prompts/a.jsonl"),
        ("/elsewhere/models/mine", "mine"),
        ("--prompts=/elsewhere/a.jsonl", "--prompts=a.jsonl"),
        ("verifier.model=/elsewhere/models/mine", "verifier.model=mine"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("plain,4,8", "plain,4,8"),
    ],
)
def test_of_a_path_outside_only_its_name_is_shown(typed: str, shown: str) -> None:
    assert command(["bench", typed]) == ["paceline", "bench", shown]


def test_a_path_inside_is_shown_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command([f"--out={tmp_path / 'results' / 'a.json'}"]) == ["paceline", "--out=results/a.json"]
