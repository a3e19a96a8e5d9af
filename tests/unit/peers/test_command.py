"""``paceline bench peers`` as a command: a system in this process against real children that speak the protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from paceline.cli.app import app
from paceline.cli.modes import Encode
from paceline.cli.peers import catalogue, command, measuring
from paceline.core.requests import CoordinatorInfo
from paceline.testing.system import LocalSystem, local_system

PEER = """#!{python} -S
import json, sys
asked = json.loads(sys.stdin.readline())
print(json.dumps({{"engine": "fake 1", "weights": asked["weights"], "bits_per_weight": asked["bits_per_weight"],
                   "max_streams": asked["streams"]}}), flush=True)
for line in sys.stdin:
    m = json.loads(line)
    outputs = [[one[-1]] * m["max_tokens"] for one in m["prompts"]]
    print(json.dumps({{"outputs": outputs, "seconds": 0.5, "steps": 8 * len(outputs)}}), flush=True)
"""


class Service:
    """What the command takes for a client."""

    def __init__(self, system: LocalSystem) -> None:
        self.complete = system.complete
        self._system = system

    async def describe(self) -> CoordinatorInfo:
        return self._system.coordinator.describe()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Half of its weights in 32 bits, half in 16."""
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("a", np.zeros((2, 32), np.float32))
    writer.add_tensor("b", np.zeros((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


Bench = Callable[..., Result]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"token_ids": [1, 2, 3 + i]}) + "\n" for i in range(3)), "utf-8")
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "SETTLE_S", 0.0)
    monkeypatch.setattr(catalogue, "environment_folders", lambda: [tmp_path / catalogue.FOLDER])

    @asynccontextmanager
    async def connected(target: str, options: object) -> AsyncIterator[Service]:
        async with local_system() as system:
            yield Service(system)

    async def prepared(source: str) -> Path:
        return tmp_path

    def encoder(directory: Path, *, is_chat: bool) -> Encode:
        return lambda row: row.token_ids

    monkeypatch.setattr(command, "connected", connected)
    monkeypatch.setattr(command, "prepared", prepared)
    monkeypatch.setattr(command, "encoder", encoder)

    def call(*arguments: str) -> Result:
        common = ["--prompts", str(prompts), "--model", str(tmp_path), "--modes", "plain,4", "--max-tokens", "8"]
        return CliRunner().invoke(app, ["bench", "peers", *common, "--streams", "1,2", *arguments])

    return call


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Stands for the python of an engine's environment."""
    file = tmp_path / "python"
    file.write_text(PEER.format(python=sys.executable), "utf-8")
    file.chmod(0o755)
    return file


def test_everybody_is_in_the_table_and_the_absent_below_it(bench: Bench, fake: Path, model: Path) -> None:
    done = bench("--peers", "llama.cpp:plain,vllm:plain", "--gguf", str(model), "--python", f"llama.cpp={fake}")
    assert done.exit_code == 0, done.output
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [(row[0], row[1]) for row in rows] == [
        ("| paceline:plain", "1"),
        ("| paceline:4", "1"),
        ("| llama.cpp:plain", "1"),
        ("| paceline:plain", "2"),
        ("| paceline:4", "2"),
        ("| llama.cpp:plain", "2"),
    ]
    assert [row[7] for row in rows] == ["100%"] * 6
    assert rows[2][3] == "16.0"
    assert rows[2][8] == "GGUF F32+F16, 24 bits |"
    assert "without figures: vllm:plain: not installed: make bench-peers" in done.stdout


def test_the_file_has_every_turn_with_its_tokens(bench: Bench, fake: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = ("--gguf", str(model), "--python", f"llama.cpp={fake}", "--out", str(out), "--json")
    done = bench("--peers", "llama.cpp:plain", *given)
    assert done.exit_code == 0, done.output
    result, printed = json.loads(out.read_text("utf-8")), json.loads(done.stdout)
    assert len(result["turns"]) == (3 + 2) * 3
    assert result["figures"] == printed["figures"]
    assert "turns" not in printed
    assert result["versions"] == {"llama.cpp:plain": "fake 1"}
    mine = next(one for one in result["turns"] if one["contender"] == "llama.cpp:plain")
    assert mine["outputs"] == [[3 + mine["group"]] * 8]


def test_without_any_peer_the_command_says_what_to_do(bench: Bench) -> None:
    done = bench("--peers", "vllm,llama.cpp:plain")
    assert done.exit_code == 1
    assert "vllm:lookup: not installed: make bench-peers" in done.stderr


def test_a_peer_that_reads_gguf_needs_one(bench: Bench, fake: Path) -> None:
    done = bench("--peers", "llama.cpp:plain", "--python", f"llama.cpp={fake}")
    assert "give one with --gguf" in done.stderr


def test_a_peer_that_does_not_start_is_left_out(bench: Bench, fake: Path, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no module named openvino >&2\nexit 1\n", "utf-8")
    broken.chmod(0o755)
    pythons = ("--python", f"llama.cpp={fake}", "--python", f"openvino={broken}")
    done = bench("--peers", "openvino:plain,llama.cpp:plain", "--gguf", str(model), *pythons)
    assert done.exit_code == 0, done.output
    assert "without figures: openvino:plain: openvino:plain ended: no module named openvino" in done.stdout


def test_assisted_decoding_needs_an_assistant(bench: Bench) -> None:
    assert "--assistant DIRECTORY" in bench("--peers", "transformers:assisted").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modes", "plain,transformers"), "is a peer here; name it with --peers"),
        (("--streams", "0,8"), "is not a list of numbers of 1 or more"),
        (("--streams", ""), "is not a list of numbers of 1 or more"),
        (("--peers", "ollama"), "is not an engine or engine:mode"),
        (("--out", "nowhere/out.json"), "There is no directory nowhere"),
    ],
)
def test_what_is_asked_wrongly_is_refused_before_anything_starts(
    bench: Bench, arguments: tuple[str, ...], message: str
) -> None:
    done = bench(*arguments)
    assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
