"""The packaged model, loaded once per type for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paceline.models.loading import load, prepare
from paceline.models.runner import ModelRunner
from paceline.text.tokenizer import Tokenizer

TEXT = (
    "A verifier checks what a drafter guessed: it reads several tokens at once, keeps those that it would have said "
    "itself, and adds one of its own. When the guess is wrong, the tokens behind the error are forgotten. "
)
MAX_CONTEXT = 1_100


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
