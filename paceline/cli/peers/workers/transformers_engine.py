"""``transformers.generate``: plain, with prompt lookup, with an assistant model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

LOOKUP = 10
"""Draft tokens of prompt lookup, as its authors chose."""


def load(order: dict[str, Any]) -> tuple[dict[str, Any], Callable[[list[list[int]], int], dict[str, Any]]]:
    """From a directory of safetensors, in bfloat16 where the processor computes in it."""
    torch.set_num_threads(order["threads"])
    has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    dtype = torch.bfloat16 if has_bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=dtype).eval()
    options: dict[str, Any] = {}
    if order["mode"] == "lookup":
        options = {"prompt_lookup_num_tokens": LOOKUP}
    elif order["mode"] == "assisted":
        options = {"assistant_model": AutoModelForCausalLM.from_pretrained(order["assistant"], dtype=dtype).eval()}
    about = {
        "engine": f"transformers {transformers.__version__}",
        "weights": str(dtype).removeprefix("torch."),
        "bits_per_weight": 8.0 * dtype.itemsize,
        "max_streams": 1 if options else order["streams"],  # both are only for one prompt at a time
    }
    return about, _generator(model, options)


def _generator(model: PreTrainedModel, options: dict[str, Any]) -> Callable[[list[list[int]], int], dict[str, Any]]:
    passes = [0]
    model.register_forward_pre_hook(lambda module, inputs: passes.__setitem__(0, passes[0] + 1))
    model.generation_config.eos_token_id = None

    def generate(prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
        passes[0] = 0
        started = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0, **options
            )
        seconds = time.perf_counter() - started
        return {"outputs": out[:, width:].tolist(), "seconds": seconds, "steps": passes[0] * len(prompts)}

    return generate
