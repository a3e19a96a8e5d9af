"""Tiny random models of many families, made on the spot with ``transformers`` and saved as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from paceline.models.loading import load
from paceline.models.runner import Feed, ModelRunner

VOCAB = 97
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_model(directory: Path, family: str = "llama", *, seed: int = 0, **config: Any) -> Path:
    """A model whose logits vary enough to tell right from wrong; no tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**BASE, **config})).float()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.15)
    model.save_pretrained(directory)
    return directory


def write_tokenizer(directory: Path, size: int = VOCAB) -> Path:
    """One token per word ``t0``, ``t1``, ..."""
    vocabulary = {f"t{index}": index for index in range(size)}
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="t0"))
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    built.save(str(directory / "tokenizer.json"))
    return directory


def stock_model(directory: Path) -> Any:
    """The library's own model with its own plain attention, in float32."""
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()


def make_runner(
    directory: Path, *, dtype: torch.dtype = torch.float32, max_context: int = 128, max_sessions: int = 4
) -> ModelRunner:
    """Our runner on the same files."""
    return ModelRunner(load(directory, dtype, max_context=max_context), max_sessions)


def feed(runner: ModelRunner, tokens: Sequence[int], sizes: Sequence[int], session: str = "s") -> torch.Tensor:
    """Logits [sum(sizes), vocab] of an open session that is fed from its start in pieces of these sizes."""
    out, start = [], 0
    for size in sizes:
        out += runner.logits([Feed(session, start, tokens[start : start + size], size)])
        start += size
    return torch.cat(out)


def run(runner: ModelRunner, tokens: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """The same in a session of its own."""
    runner.open("alone")
    try:
        return feed(runner, tokens, sizes, "alone")
    finally:
        runner.close("alone")


def random_tokens(count: int, seed: int = 0) -> list[int]:
    """Token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (count,), generator=generator).tolist()  # type: ignore[no-any-return]
