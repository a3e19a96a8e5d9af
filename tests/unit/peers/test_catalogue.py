"""Which peers are asked for, and where their environments are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paceline.cli.peers.catalogue import ENGINES, Peer, find_python, parse_peers, parse_pythons, program
from paceline.core.errors import InvalidRequest


def test_an_engine_stands_for_all_its_modes() -> None:
    assert parse_peers("llama.cpp, transformers:lookup,llama.cpp:plain") == [
        Peer("llama.cpp", "plain"),
        Peer("llama.cpp", "lookup"),
        Peer("transformers", "lookup"),
    ]
    assert len(parse_peers(",".join(ENGINES))) == sum(len(one.modes) for one in ENGINES.values())


@pytest.mark.parametrize("text", ["ollama", "vllm:assisted", "vllm:", ":plain"])
def test_what_is_no_peer_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"there are transformers \(plain, lookup, assisted\), llama.cpp"):
        parse_peers(text)


def test_an_environment_counts_once_it_is_ready(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "vllm" / "bin").mkdir(parents=True)
    assert find_python("vllm", {}, [first, second]) is None
    (second / "vllm" / ".ready").touch()
    assert find_python("vllm", {}, [first, second]) == second / "vllm" / "bin" / "python"
    (first / "vllm" / ".ready").touch()
    assert find_python("vllm", {}, [first, second]) == first / "vllm" / "bin" / "python"


def test_an_environment_of_the_users_own_comes_first(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    given = parse_pythons([f"vllm={python}"])
    assert find_python("vllm", given, []) == python
    assert find_python("openvino", given, []) is None


def test_transformers_is_installed_beside_us() -> None:
    assert find_python("transformers", {}, []) == Path(sys.executable)


@pytest.mark.parametrize("text", ["vllm", "vllm=", "vllm=/nowhere/python", "ollama=/bin/sh"])
def test_a_python_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not ENGINE=PATH"):
        parse_pythons([text])


def test_a_worker_sees_its_own_packages_only() -> None:
    command = program("vllm", Path("there/python"))
    assert command[:3] == ["env", "-u", "PYTHONPATH"]
    at = command.index("there/python")
    assert all("=" in one for one in command[3:at])
    assert command[at + 1] == "-P"
    assert [Path(command[at + 2]).name, command[at + 3]] == ["answering.py", "vllm_engine"]
