"""``paceline up`` as a user runs it: real processes on real ports, and what the other verbs make of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import (
    RunningStack,
    environment,
    generate,
    generate_drafted,
    is_alive,
    paceline,
    stack,
    synthetic,
)

from paceline.core.types import SamplingParams
from paceline.models.hash_model import HashModel

VOCABULARY = 32_000
GREEDY = SamplingParams()


def reference(prompt: tuple[int, ...], count: int, params: SamplingParams = GREEDY) -> list[int]:
    model, context = HashModel(VOCABULARY), list(prompt)
    for _ in range(count):
        context.append(model.next_token(context, params, len(prompt)))
    return context[len(prompt) :]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    cache = tmp_path_factory.mktemp("cache")
    with stack("--verifiers", "2", *synthetic(step_s=0.005), env=environment(cache)) as one:
        yield one


def test_the_ready_line_names_every_process_and_each_is_alive(running: RunningStack) -> None:
    assert set(running.ready) == {"grpc", "http", "store", "processes"}
    roles = [one["role"] for one in running.ready["processes"]]
    assert sorted(roles) == ["coordinator", "drafter", "store", "verifier", "verifier"]
    assert all(set(one) == {"role", "pid", "address"} for one in running.ready["processes"])
    assert all(is_alive(one["pid"]) for one in running.ready["processes"])
    assert running.ready["store"].startswith("redis://127.0.0.1:")


def test_generated_tokens_are_the_models_own_with_and_without_drafts(running: RunningStack) -> None:
    expected = reference((5, 6, 7), 40)
    drafted = generate_drafted(running, "--token-ids", "5,6,7", "--max-tokens", "40")
    plain = generate(running, "--token-ids", "5,6,7", "--max-tokens", "40", "--plain")
    assert drafted["token_ids"] == plain["token_ids"] == expected
    assert plain["metrics"]["speculative_decoding"]["num_draft_tokens"] == 0  # type: ignore[index]


def test_the_answer_has_every_field_that_scripts_rely_on(running: RunningStack) -> None:
    answer = generate(running, "--token-ids", "1,2", "--max-tokens", "3", "--temperature", "0.5", "--seed", "9")
    assert answer["token_ids"] == reference((1, 2), 3, SamplingParams(temperature=0.5, seed=9))
    assert answer["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answer["seed"] == 9
    assert answer["numerics_id"] == HashModel(VOCABULARY).digest[:16]
    assert set(answer["timing"]) == {"first_token", "total"}  # type: ignore[call-overload]
    assert set(answer["metrics"]["speculative_decoding"]) == {  # type: ignore[index]
        *("mean_acceptance_length", "draft_acceptance_rate", "acceptance_histogram", "num_spec_steps"),
        *("num_accepted_draft_tokens", "num_draft_tokens", "num_spec_tokens", "num_steps", "num_feature_bytes"),
    }


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_without_a_tokenizer_token_ids_are_shown(running: RunningStack, stream: list[str]) -> None:
    done = paceline("generate", "--target", running.grpc, "--token-ids", "5,6,7", "--max-tokens", "3", *stream)
    assert done.out == " ".join(map(str, reference((5, 6, 7), 3))) + "\n"


def test_a_trace_shows_the_spans_of_all_three_services(running: RunningStack) -> None:
    request = str(generate_drafted(running, "--token-ids", "1,2,3", "--max-tokens", "20")["request_id"])
    done = paceline("trace", request, "--target", running.grpc, "--json")
    spans = done.json
    assert {span["service"] for span in spans} == {"coordinator", "verifier", "drafter"}
    assert len({span["trace_id"] for span in spans}) == 1
    names = {span["name"] for span in spans}
    assert names >= {"request", "verify.step", "verify.queue", "verify.forward", "wire", "store.commit", "draft"}
    ids = {span["span_id"] for span in spans}
    assert [span["name"] for span in spans if span["parent_id"] not in ids] == ["request"]
    drawn = paceline("trace", request, "--target", running.grpc)
    assert drawn.code == 0
    assert "verify.step" in drawn.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--token-ids", "1,2", "--max-tokens", "0"], "INVALID_ARGUMENT", "max_tokens"),
        (["--token-ids", "1,2", "--temperature", "99"], "INVALID_ARGUMENT", "temperature"),
        (["--token-ids", "1,2", "--top-p", "0"], "INVALID_ARGUMENT", "top_p"),
        (["--token-ids", f"1,{VOCABULARY}"], "INVALID_ARGUMENT", "outside the vocabulary"),
        (["--token-ids", ",".join(["1"] * 2048)], "INVALID_ARGUMENT", "context"),
        (["--token-ids", "1,x"], "INVALID_ARGUMENT", "comma-separated"),
        (["--raw", ""], "INVALID_ARGUMENT", "prompt"),
        (["--raw", "text"], "UNIMPLEMENTED", "tokenizer"),
        (["--token-ids", "1,2", "--stop", "x"], "UNIMPLEMENTED", "stop"),
        (["--token-ids", "1,2", "--max-draft", "999"], "INVALID_ARGUMENT", "max_draft"),
        (["--prompts", "none.jsonl"], "NOT_FOUND", "none.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line_with_its_code(
    running: RunningStack, arguments: list[str], code: str, words: str
) -> None:
    done = paceline("generate", "--target", running.grpc, *arguments)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: {code}: ")
    assert words in done.err
    assert "Traceback" not in done.err
    as_json = paceline("generate", "--target", running.grpc, "--json", *arguments)
    assert as_json.code == 1
    assert as_json.json["error"]["code"] == code


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["--top-k", "many"], ["--concurrency", "0"]])
def test_unknown_options_and_malformed_values_are_usage_errors(running: RunningStack, arguments: list[str]) -> None:
    done = paceline("generate", "--target", running.grpc, "--token-ids", "1", *arguments)
    assert done.code == 2
    assert arguments[0] in done.err


def test_many_prompts_give_one_line_each_in_order_and_errors_are_lines_too(
    running: RunningStack, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n{"turns": ["b"]}\n', "utf-8")
    done = paceline("generate", "--target", running.grpc, "--prompts", str(file), "--concurrency", "2")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    assert [line["error"]["code"] for line in lines] == ["UNIMPLEMENTED", "UNIMPLEMENTED"]
    assert done.code == 1


def test_a_second_stack_on_the_same_port_says_so_and_leaves_nothing_behind(running: RunningStack) -> None:
    port = running.grpc.rpartition(":")[2]
    done = paceline("up", "--json", "--port", port, *synthetic())
    assert done.code == 1
    assert "in use" in done.err
    assert done.json["error"]["code"] == "UNAVAILABLE"
    assert generate(running, "--token-ids", "5,6,7", "--max-tokens", "4")["token_ids"] == reference((5, 6, 7), 4)


def test_nobody_listening_is_said_with_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = paceline("generate", "--target", address, "hello")
    assert done.code == 1
    assert done.err.splitlines()[-1] == (
        f"error: UNAVAILABLE: No coordinator answers at {address}. Start one with: paceline up"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--store", "redis://127.0.0.1:1/0", *synthetic()], "session store at redis://127.0.0.1:1/0"),
        (["--store", "nonsense", *synthetic()], "nonsense"),
        (["--verifier-model", "no/such/model.gguf"], "no file"),
        (["--backend", "quantum"], "quantum"),
        (["--drafter", "oracle", *synthetic()], "oracle"),
        ([*synthetic(settings=["verifier.max_session=3"])], "did you mean max_sessions"),
        ([*synthetic(settings=["coordinator.max_draft=-1"])], "max_draft"),
    ],
)
def test_a_stack_that_can_not_start_says_why_in_its_last_line(options: list[str], words: str, tmp_path: Path) -> None:
    done = paceline("up", "--port", "0", *options, env=environment(tmp_path))
    assert done.code == 1
    assert words in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "stack.json").exists()


def test_ctrl_c_ends_every_process_and_the_exit_is_clean(tmp_path: Path) -> None:
    with stack(*synthetic(), env=environment(tmp_path)) as one:
        pids = [process["pid"] for process in one.ready["processes"]]
        assert (tmp_path / "stack.json").exists()
        assert one.interrupt() == 0
        assert [pid for pid in pids if is_alive(pid)] == []
        assert not (tmp_path / "stack.json").exists()


def test_when_the_stack_itself_is_killed_no_process_stays_behind(tmp_path: Path) -> None:
    with stack(*synthetic(), env=environment(tmp_path)) as one:
        pids = [process["pid"] for process in one.ready["processes"]]
        one.kill()
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=120)
    assert alive == []


def test_without_a_target_the_running_stack_is_found(tmp_path: Path) -> None:
    env = environment(tmp_path)
    with stack(*synthetic(), env=env):
        done = paceline("generate", "--json", "--token-ids", "5,6,7", "--max-tokens", "5", env=env)
    assert done.json["token_ids"] == reference((5, 6, 7), 5)
    assert "starting one" not in done.err
