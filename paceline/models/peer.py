"""The yardstick: plain greedy ``transformers.generate`` on the same model, dtype and machine."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from paceline.core.types import Tokens
from paceline.models.loading import choose_dtype
from paceline.models.threads import use_threads


class TransformersPeer:
    """Stock model, stock attention, all cores."""

    def __init__(self, directory: Path, dtype: str = "auto") -> None:
        use_threads(0)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=choose_dtype(dtype)).eval()

    def generate(self, prompt: Tokens, max_tokens: int) -> tuple[Tokens, float]:
        """(output tokens, seconds)."""
        started = time.perf_counter()
        with torch.inference_mode():
            out = self._model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return tuple(out[0, len(prompt) :].tolist()), time.perf_counter() - started
