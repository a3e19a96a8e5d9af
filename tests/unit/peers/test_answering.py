"""The loop of every worker: a line in, a line out, whatever the engine does."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from paceline.cli.peers.catalogue import ENGINES
from paceline.cli.peers.workers import answering

LOAD = json.dumps({"verb": "load", "model": "m"})
GENERATE = json.dumps({"verb": "generate", "prompts": [[1, 2]], "max_tokens": 2})


def load(order: dict[str, Any]) -> tuple[dict[str, Any], answering.Generate]:
    def generate(prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        if max_tokens > 2:
            raise MemoryError("no room\nfor so many")
        return {"outputs": [[len(prompts[0])] * max_tokens], "seconds": 1.0, "steps": None}

    return {"engine": f"of {order['model']}"}, generate


def answers(*lines: str) -> list[Any]:
    out = io.StringIO()
    answering.answer(lines, out, load)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_line_has_its_answer() -> None:
    assert answers(LOAD, GENERATE) == [
        {"engine": "of m"},
        {"outputs": [[2, 2]], "seconds": 1.0, "steps": None},
    ]


def test_nothing_is_generated_before_something_is_loaded() -> None:
    assert answers(GENERATE) == [{"error": "nothing is loaded yet"}]


def test_an_engines_error_is_an_answer_and_the_next_line_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    greedy = json.dumps({"verb": "generate", "prompts": [[1]], "max_tokens": 3})
    assert answers(LOAD, greedy, GENERATE)[1:] == [
        {"error": "MemoryError: no room"},
        {"outputs": [[2, 2]], "seconds": 1.0, "steps": None},
    ]
    assert "Traceback" in capsys.readouterr().err


def test_what_is_no_request_is_answered_too(capsys: pytest.CaptureFixture[str]) -> None:
    (reply,) = answers("{")
    assert reply["error"].startswith("JSONDecodeError: ")
    assert "Traceback" in capsys.readouterr().err


def test_every_engine_has_a_worker_beside_the_loop() -> None:
    folder = answering.Path(answering.__file__).parent
    assert {f"{one.worker}.py" for one in ENGINES.values()} == {file.name for file in folder.glob("*_engine.py")}
