"""Gemma 3 270M, where its packages are installed (``make gemma``): windows, tied embeddings, a vocabulary of 262k.

Like every target: the library's logits, bits that do not depend on grouping, plain text whatever is drafted.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from paceline.config.settings import VerifierSettings
from paceline.core.types import SamplingParams, SessionSpec, StepItem, StopRules, Tokens
from paceline.models.loading import load, prepare
from paceline.models.runner import Feed, ModelRunner
from paceline.text.tokenizer import Tokenizer
from paceline.verifiers.torch import TorchVerifier
from tests.integration.models.conftest import TEXT
from tests.support.tiny_models import stock_model

LENGTH, TAIL = 540, 8
"""Beyond its window of 512."""
COUNT = 24


@pytest.fixture(scope="module")
def directory() -> Path:
    return prepare("gemma3")


@pytest.fixture(scope="module")
def tokens(directory: Path) -> list[int]:
    return list(Tokenizer.load(directory).encode(TEXT * 20)[:LENGTH])


def test_logits_are_the_librarys_within_rounding_beyond_the_window(directory: Path, tokens: list[int]) -> None:
    with torch.inference_mode():
        theirs = stock_model(directory)(torch.tensor([tokens]), use_cache=False, logits_to_keep=TAIL).logits[0]
    runner = ModelRunner(load(directory, torch.float32, max_context=LENGTH), 1)
    runner.open("s")
    for start in range(0, LENGTH - TAIL, 76):
        runner.logits([Feed("s", start, tokens[start : start + 76], 0)])
    ours = runner.logits([Feed("s", LENGTH - TAIL, tokens[LENGTH - TAIL :], TAIL)])[0]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.std()
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.fixture(scope="module")
def target(directory: Path) -> TorchVerifier:
    return TorchVerifier.load(VerifierSettings(model=str(directory), max_sessions=2, max_context=256))


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=1)])
async def test_drafts_right_and_wrong_change_nothing(
    target: TorchVerifier, tokens: list[int], sampling: SamplingParams
) -> None:
    assert target.info.exact
    expected = await decode(target, tuple(tokens[:60]), sampling, {})
    dice = random.Random(0)
    drafts = {}
    for index in range(COUNT):
        wrong = [dice.randrange(target.info.vocab_size) for _ in range(dice.randrange(4))]
        drafts[index] = (*expected[index : index + dice.randrange(6)], *wrong)
    assert await decode(target, tuple(tokens[:60]), sampling, drafts) == expected


async def decode(target: TorchVerifier, prompt: Tokens, sampling: SamplingParams, drafts: dict[int, Tokens]) -> Tokens:
    """``COUNT`` tokens; ``drafts`` by the number of tokens that are there."""
    target.open(SessionSpec("s", prompt, len(prompt), sampling, StopRules(100)))
    text, cached = list(prompt), 0
    while len(text) < len(prompt) + COUNT:
        draft = drafts.get(len(text) - len(prompt), ())
        item = StepItem("s", cached, (*text[cached:], *draft), len(draft))
        outcome = (await target.step([item])).outcomes[0]
        cached = len(text) + outcome.accepted
        text += outcome.token_ids
    target.close("s")
    return tuple(text[len(prompt) :][:COUNT])
