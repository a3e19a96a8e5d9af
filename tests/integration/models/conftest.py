"""The packaged default, loaded once per type for all tests; tests of other packaged models where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from paceline.config.packaged import PACKAGES
from paceline.models.loading import load, prepare
from paceline.models.runner import ModelRunner
from paceline.text.tokenizer import Tokenizer

TEXT = (
    "A verifier checks what a drafter guessed: it reads several tokens at once, keeps those that it would have said "
    "itself, and adds one of its own. When the guess is wrong, the tokens behind the error are forgotten. "
)
MAX_CONTEXT = 1_100
collect_ignore = [
    f"test_{name}.py"
    for name, package in PACKAGES.items()
    if not all(importlib.util.find_spec(module) for module in package.modules)
]
"""What was not installed is not downloaded for a test."""


@pytest.fixture(scope="package")
def directory() -> Path:
    return prepare("smollm2")


@pytest.fixture(scope="package")
def tokens(directory: Path) -> list[int]:
    """Real text, enough to fill a slot."""
    return list(Tokenizer.load(directory).encode(TEXT * 30)[:MAX_CONTEXT])


@pytest.fixture(scope="package", params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def runner(request: pytest.FixtureRequest, directory: Path) -> ModelRunner:
    return ModelRunner(load(directory, request.param, max_context=MAX_CONTEXT), max_sessions=4)
