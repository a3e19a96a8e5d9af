"""What is generated and committed is fresh: protobuf code and the configuration page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paceline.config.reference import render

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    protos = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "protos" / "paceline" / "v1").glob("*.proto"))
    assert len(protos) == 5
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outs, *protos],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        check=True,
    )
    fresh = {file.name: file.read_text("utf-8") for file in (tmp_path / "paceline" / "v1").iterdir()}
    committed = {
        file.name: file.read_text("utf-8")
        for file in (ROOT / "paceline" / "v1").iterdir()
        if file.suffix in (".py", ".pyi") and file.name != "__init__.py"
    }
    assert fresh == committed


@pytest.mark.parametrize("arguments", [["lint"], ["format", "-d", "--exit-code"]])
def test_protos_pass_buf(arguments: list[str]) -> None:
    done = subprocess.run([BIN / "buf", *arguments], cwd=ROOT / "protos", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_page_is_fresh() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text("utf-8") == render()
