"""The verbs on the packaged model: text, losslessness, measurements, and what the machine can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import RunningStack, generate, paceline, stack

from paceline.models.loading import prepare
from paceline.text.tokenizer import Tokenizer

PROMPTS = Path(__file__).parents[3] / "deploy" / "prompts" / "spec_bench_dev.jsonl"
QUESTION = "Name the four seasons of the year, one per line."


@pytest.fixture(scope="module")
def running() -> Iterator[RunningStack]:
    prepare("smollm2")
    with stack("--set", "verifier.server.metrics=127.0.0.1:0") as one:
        yield one


@pytest.mark.parametrize("law", [[], ["--temperature", "0.8", "--top-p", "0.95", "--seed", "5"]])
def test_text_is_the_same_with_drafts_and_without(running: RunningStack, law: list[str]) -> None:
    drafted = generate(running, QUESTION, "--max-tokens", "40", *law)
    plain = generate(running, QUESTION, "--max-tokens", "40", "--plain", *law)
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["text"] == plain["text"]
    assert Tokenizer.load(prepare("smollm2")).decode(plain["token_ids"]) == plain["text"]  # type: ignore[arg-type]


def test_the_stream_shows_the_whole_text(running: RunningStack) -> None:
    whole = generate(running, QUESTION, "--max-tokens", "40")["text"]
    streamed = paceline("generate", "--target", running.grpc, "--stream", QUESTION, "--max-tokens", "40")
    assert streamed.out == f"{whole}\n"
    assert "tokens/s" in streamed.err


def test_nothing_of_a_stop_string_or_after_it_is_shown(running: RunningStack) -> None:
    whole = str(generate(running, QUESTION, "--max-tokens", "40")["text"])
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    cut = generate(running, QUESTION, "--max-tokens", "40", "--stop", stop)
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_raw_text_is_not_put_into_the_chat_template(running: RunningStack) -> None:
    tokenizer = Tokenizer.load(prepare("smollm2"))
    raw = generate(running, "--raw", "Once upon a time", "--max-tokens", "4")
    chat = generate(running, "Once upon a time", "--max-tokens", "4")
    assert raw["usage"]["prompt_tokens"] == len(tokenizer.encode("Once upon a time"))  # type: ignore[index]
    assert chat["usage"]["prompt_tokens"] == len(tokenizer.chat([("user", "Once upon a time")]))  # type: ignore[index]


def test_the_prompt_can_come_from_standard_input(running: RunningStack) -> None:
    done = paceline("generate", "--target", running.grpc, "--json", "--max-tokens", "8", "-", stdin=QUESTION)
    assert done.json["token_ids"] == generate(running, QUESTION, "--max-tokens", "8")["token_ids"]


def test_a_file_of_prompts_gives_a_line_each(running: RunningStack) -> None:
    arguments = ["--prompts", str(PROMPTS), "--limit", "3", "--max-tokens", "6", "--concurrency", "3"]
    done = paceline("generate", "--target", running.grpc, *arguments)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0, done.err
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert all(len(line["token_ids"]) == 6 for line in lines)


@pytest.mark.timeout(420)  # six stacks are started, two of them with the model twice
def test_check_lossless_finds_no_difference_with_any_drafter() -> None:
    arguments = ["--limit", "2", "--max-tokens", "16", "--seeds", "1", "--json"]
    done = paceline("check-lossless", "--prompts", str(PROMPTS), *arguments, timeout=400)
    assert done.code == 0, done.err
    report = done.json
    assert report["lossless"] is True
    drafters = ("colocated", "auto", "suffix", "ngram", "model", "random")
    assert [run["drafter"] for run in report["runs"]] == [name for name in drafters for _ in range(2)]
    assert all((run["prompts"], run["mismatches"], run["errors"]) == (2, 0, 0) for run in report["runs"])
    by_drafter = {run["drafter"]: run for run in report["runs"]}
    assert by_drafter["model"]["accepted"] > 0


def test_bench_compares_modes_on_the_same_prompts(running: RunningStack, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--limit", "2", "--max-tokens", "12", "--modes", "plain,pipeline,transformers", "--concurrency", "1,2"]
    done = paceline(
        "bench", "--target", running.grpc, "--prompts", str(PROMPTS), *arguments, "--out", str(out), "--json"
    )
    assert done.code == 0, done.err
    whole = {one["mode"]: one for one in done.json["comparisons"] if one["task"] == "all"}
    assert set(whole) == {"plain", "pipeline", "transformers"}
    assert whole["pipeline"]["identical"] is True
    assert all(one["num"] == 2 and one["rate"] > 0 for one in whole.values())
    assert {(one["mode"], one["concurrency"]) for one in done.json["throughput"]} == {
        (mode, level) for mode in whole for level in (1, 2)
    }
    written = json.loads(out.read_text("utf-8"))
    assert len(written["samples"]) == 6
    assert written["command"][1] == "bench"


def test_doctor_proves_the_invariance_of_this_machine() -> None:
    done = paceline("doctor", "--json")
    findings = {one["name"]: one for one in done.json}
    assert findings["invariance"]["ok"], findings["invariance"]
    assert findings["model"]["ok"]
    assert findings["store"]["ok"]
    assert done.code == 0


def test_doctor_names_the_remedy_for_a_model_that_is_not_there() -> None:
    done = paceline("doctor", "--json", "--no-probe", "--model", "no/such-model")
    finding = next(one for one in done.json if one["name"] == "model")
    assert not finding["ok"]
    assert "paceline prepare" in finding["remedy"]
    assert done.code == 1
