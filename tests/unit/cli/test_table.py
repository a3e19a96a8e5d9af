"""``paceline bench table`` as a command: what it prints, writes and exits with, over a system in this process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paceline.cli import table
from paceline.cli.app import app
from paceline.client.aio import Completion
from paceline.core.requests import CoordinatorInfo, DraftMode, GenerateRequest
from paceline.testing.system import LocalSystem, local_system

Alter = Callable[[GenerateRequest, Completion], Completion]


def honest(request: GenerateRequest, done: Completion) -> Completion:
    return done


def doctored(request: GenerateRequest, done: Completion) -> Completion:
    """Draws one token otherwise when there are drafts."""
    wrong = done.token_ids[-1] ^ 1
    return done if request.mode is DraftMode.PLAIN else replace(done, token_ids=(*done.token_ids[:-1], wrong))


class Service:
    """What the command takes for a client."""

    def __init__(self, system: LocalSystem, alter: Alter) -> None:
        self._system = system
        self._alter = alter

    async def describe(self) -> CoordinatorInfo:
        return self._system.coordinator.describe()

    async def describe_now(self) -> CoordinatorInfo:
        return self._system.coordinator.describe()

    async def complete(self, request: GenerateRequest) -> Completion:
        return self._alter(request, await self._system.complete(request))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"token_ids": [1, 2, index], "task": "even" if index % 2 == 0 else "odd"} for index in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, prompts: Path) -> Callable[..., Result]:
    def call(*arguments: str, alter: Alter = honest) -> Result:
        @asynccontextmanager
        async def connected(target: str, options: object) -> AsyncIterator[Service]:
            async with local_system() as system:
                yield Service(system, alter)

        monkeypatch.setattr(table, "connected", connected)
        command = ["bench", "table", "--prompts", str(prompts), "--modes", "plain,4,pipeline", "--max-tokens", "8"]
        return CliRunner().invoke(app, [*command, *arguments])

    return call


def test_the_page_is_printed_and_equal_text_is_success(bench: Callable[..., Result]) -> None:
    done = bench()
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[2] == "- Target: synthetic-64"
    assert [line.split(" | ")[0] for line in lines if "| 3 |" in line] == ["| plain", "| 4 tokens", "| adaptive"]
    assert done.stdout.count("100 %") == 9
    assert "NOT lossless" not in done.stderr


def test_the_page_names_who_guessed_and_what_that_took(bench: Callable[..., Result]) -> None:
    lines = bench().stdout.splitlines()
    assert lines[3:5] == ["- Drafter: synthetic", "- Drafter memory: 0.00 MB of weights, 0.00 MB of sessions at most"]
    assert "Bytes of hidden states between services per accepted draft token: 4 tokens 0, adaptive 0." in lines
    found = json.loads(bench("--json").stdout)
    assert found["drafters"] == [{"name": "synthetic", "place": "pool", "weights_bytes": 0, "state_bytes": 0}]
    assert {row["feature_bytes"] for row in found["rows"]} == {None, 0.0}


def test_one_other_token_is_failure_and_is_said(bench: Callable[..., Result]) -> None:
    done = bench(alter=doctored)
    assert done.exit_code == 1
    assert "NOT lossless" in done.stderr
    assert "| 0.0 % |" in done.stdout


def test_as_json_rows_have_every_field_and_samples_go_to_their_file(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    done = bench("--json", "--out", str(tmp_path / "all.json"), "--no-likelihood")
    shown, written = json.loads(done.stdout), json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert [(row["mode"], row["task"]) for row in shown["rows"]] == [
        (mode, task) for mode in ("plain", "4", "pipeline") for task in ("even", "odd", "all")
    ]
    assert {row["identical"] for row in shown["rows"]} == {1.0}
    assert {row["log_likelihood"] for row in shown["rows"]} == {None}
    assert written["rows"] == shown["rows"]
    assert len(written["samples"]) == 9
    assert written["samples"][1]["speculative"]["num_draft_tokens"] > 0


def test_page_and_picture_go_where_they_are_wanted(bench: Callable[..., Result], tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "picture.svg"
    done = bench("--markdown", str(page), "--plot", str(picture))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "| adaptive | 3 |" in page.read_text("utf-8")
    drawn = picture.read_text("utf-8")
    assert "speed-up over plain" in drawn
    assert all(f">{name}<" in drawn for name in ("even", "odd", "all", "adaptive", "4 tokens"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "x.pdf"], "x.pdf ends with neither .svg nor .png"),
        (["--markdown", "nowhere/page.md"], "There is no directory nowhere"),
        (["--modes", "plain,0"], "draft lengths from 1 to 64"),
    ],
)
def test_what_could_not_be_written_or_run_is_said_before_anything_runs(
    bench: Callable[..., Result], arguments: list[str], words: str
) -> None:
    done = bench(*arguments)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stdout == ""


def test_ctrl_c_shows_the_prompts_that_are_complete(bench: Callable[..., Result]) -> None:
    answered = 0

    def press(request: GenerateRequest, done: Completion) -> Completion:
        nonlocal answered
        answered += 1
        if answered == 3 + 3 + 2:  # three first requests, the first prompt, two of the second
            os.kill(os.getpid(), signal.SIGINT)
        return done

    done = bench(alter=press)
    assert done.exit_code == 130
    assert "interrupted: this is what is there so far" in done.stderr
    assert [
        line.split(" | ")[:2] for line in done.stdout.splitlines() if line.startswith(("| plain", "| adaptive"))
    ] == [
        ["| plain", "1"],
        ["| adaptive", "1"],
    ]


def test_ctrl_c_before_the_first_prompt_shows_nothing(bench: Callable[..., Result]) -> None:
    def press(request: GenerateRequest, done: Completion) -> Completion:
        os.kill(os.getpid(), signal.SIGINT)
        return done

    done = bench(alter=press)
    assert (done.exit_code, done.stdout) == (130, "")
