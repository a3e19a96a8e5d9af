"""A verifier on two ranks, one of which is killed or left behind: all of them end, and say why."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.processes import environment

from tests.support.tiny_models import write_model

END_S = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@contextmanager
def two_ranks(model: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Rank 0 once it serves, and rank 1."""
    settings = [f"model={model}", "dtype=float32", "tensor_parallel=2", "threads=1", "max_sessions=2"]
    settings += ["max_context=128", "rank_timeout_s=3", "server.ready_file=-"]
    command = [sys.executable, "-m", "verifier_service", *(f"--set={one}" for one in settings)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as first:
        try:
            assert first.stdout is not None
            assert '"role": "verifier"' in first.stdout.readline()
            (second,) = psutil.Process(first.pid).children()
            yield first, second
        finally:
            first.kill()


def test_losing_a_rank_ends_the_verifier_with_the_remedy(model: Path) -> None:
    with two_ranks(model) as (first, second):
        second.kill()
        _, words = first.communicate(timeout=END_S)
        assert first.returncode == 1
        assert not second.is_running()
    last = [line for line in words.splitlines() if line.startswith("verifier_service: ")][-1]
    assert "rank 1 ended with code -9" in last
    assert "start all ranks again" in last


def test_losing_rank_0_ends_the_others(model: Path) -> None:
    with two_ranks(model) as (first, second):
        first.kill()
        second.wait(END_S)


def test_a_signal_ends_all_ranks_in_peace(model: Path) -> None:
    with two_ranks(model) as (first, second):
        first.send_signal(signal.SIGTERM)
        _, words = first.communicate(timeout=END_S)
        assert first.returncode == 0
        assert not second.is_running()
    assert "lost the others" not in words
