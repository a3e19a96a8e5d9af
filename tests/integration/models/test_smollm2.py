"""SmolLM2-135M end to end: the library's text, a drafter that agrees with its target, one identity everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paceline.config.settings import DrafterSettings, VerifierSettings
from paceline.core.types import DraftJob, SamplingParams, SessionSpec, StepItem, StopRules, Tokens
from paceline.drafters.model import ModelDrafter
from paceline.models.peer import TransformersPeer
from paceline.models.runner import Feed, ModelRunner
from paceline.verifiers.torch import TorchVerifier
from tests.support.tiny_models import make_runner, write_model

COUNT = 24
"""Tokens of a text."""


@pytest.mark.parametrize("runner", [torch.float32], indirect=True, ids=["float32"])
def test_greedy_text_is_the_librarys(runner: ModelRunner, directory: Path, tokens: list[int]) -> None:
    prompt = tokens[:40]
    theirs, _ = TransformersPeer(directory, "float32").generate(tuple(prompt), COUNT)
    runner.open("s")
    ours, row = list(prompt), runner.logits([Feed("s", 0, prompt, 1)])[0][0]
    for _ in theirs:
        ours.append(int(row.argmax()))
        row = runner.logits([Feed("s", len(ours) - 1, ours[-1:], 1)])[0][0]
    runner.close("s")
    assert tuple(ours[40:]) == theirs


@pytest.fixture(scope="module")
def target() -> TorchVerifier:
    return TorchVerifier.load(VerifierSettings(max_sessions=2, max_context=256))


@pytest.fixture(scope="module")
def drafter() -> Iterator[ModelDrafter]:
    threads = torch.get_num_threads()
    yield ModelDrafter.load(DrafterSettings(model="smollm2", max_sessions=2, max_context=256, threads=threads))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=1)])
async def test_the_target_drafting_for_itself_is_always_right_and_changes_nothing(
    target: TorchVerifier, drafter: ModelDrafter, tokens: list[int], sampling: SamplingParams
) -> None:
    assert target.info.exact
    prompt = tuple(tokens[:60])
    for room in (target, drafter):
        room.open(SessionSpec("s", prompt, len(prompt), sampling, StopRules(100)))
    text, cached = list(prompt), 0
    while len(text) < 60 + COUNT:
        guess = drafter.extend([DraftJob("s", tuple(text), len(text), 7)])[0].token_ids
        outcome = (await target.step([StepItem("s", cached, (*text[cached:], *guess), len(guess))])).outcomes[0]
        assert outcome.token_ids[:-1] == guess
        cached = len(text) + outcome.accepted
        text += outcome.token_ids
    for room in (target, drafter):
        room.close("s")
    assert tuple(text[60 : 60 + COUNT]) == await plain(target, prompt, sampling)


async def plain(target: TorchVerifier, prompt: Tokens, sampling: SamplingParams) -> Tokens:
    target.open(SessionSpec("plain", prompt, len(prompt), sampling, StopRules(100)))
    text, cached = list(prompt), 0
    for _ in range(COUNT):
        outcome = (await target.step([StepItem("plain", cached, tuple(text[cached:]))])).outcomes[0]
        cached = len(text)
        text += outcome.token_ids
    target.close("plain")
    return tuple(text[len(prompt) :])


def test_another_process_finds_the_same_numerics_id_and_the_same_bits(tmp_path: Path) -> None:
    runner = make_runner(write_model(tmp_path))
    runner.open("s")
    bits = runner.logits([Feed("s", 0, [3, 4, 5], 3)])[0].numpy().tobytes().hex()
    program = (
        "import sys; from pathlib import Path; from tests.support.tiny_models import make_runner, run\n"
        "runner = make_runner(Path(sys.argv[1]))\n"
        "print(runner.numerics_id, run(runner, [3, 4, 5], [3]).numpy().tobytes().hex())"
    )
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [runner.numerics_id, bits]
