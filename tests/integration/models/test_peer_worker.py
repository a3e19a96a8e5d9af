"""The worker that is always there, ``transformers``, as the child that ``paceline bench peers`` asks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paceline.cli.peers.catalogue import program
from paceline.cli.peers.children import Generated, Loaded, Order, PeerChild
from paceline.models.loading import choose_dtype
from tests.support.tiny_models import VOCAB, random_tokens, write_model

NUM_TOKENS = 24
PROMPTS = [tuple(random_tokens(9, seed=1) * 2), tuple(random_tokens(5, seed=2))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes every token for the end of a text."""
    return write_model(tmp_path_factory.mktemp("peer"), eos_token_id=list(range(VOCAB)))


async def ask(model: Path, mode: str, tmp_path: Path, *prompts: tuple[int, ...]) -> tuple[Loaded, Generated]:
    order = Order(str(model), mode, 1, 2, 256, weights="", bits_per_weight=0.0, assistant=str(model))
    child = PeerChild(mode, program("transformers", Path(sys.executable)), tmp_path / "log")
    try:
        return await child.start(order, 120), await child.generate(prompts, NUM_TOKENS, 60)
    finally:
        await child.stop()


async def test_plain_decoding_takes_many_prompts_and_goes_past_every_end(model: Path, tmp_path: Path) -> None:
    loaded, done = await ask(model, "plain", tmp_path, *PROMPTS)
    assert [len(one) for one in done.outputs] == [NUM_TOKENS] * 2
    assert done.steps == 2 * NUM_TOKENS
    assert (loaded.max_streams, loaded.engine.split()[0]) == (2, "transformers")
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=choose_dtype("auto")).eval()
    with torch.inference_mode():
        first = int(stock(torch.tensor([PROMPTS[0]])).logits[0, -1].argmax())
    assert done.outputs[0][0] == first


async def test_an_assistant_that_is_the_model_itself_saves_steps(model: Path, tmp_path: Path) -> None:
    loaded, done = await ask(model, "assisted", tmp_path, PROMPTS[0])
    assert len(done.outputs[0]) == NUM_TOKENS
    assert done.steps is not None
    assert done.steps < NUM_TOKENS
    assert loaded.max_streams == 1


async def test_prompt_lookup_takes_one_prompt_at_a_time(model: Path, tmp_path: Path) -> None:
    loaded, done = await ask(model, "lookup", tmp_path, PROMPTS[0])
    assert len(done.outputs[0]) == NUM_TOKENS
    assert done.steps is not None
    assert done.steps <= NUM_TOKENS
    assert loaded.max_streams == 1
