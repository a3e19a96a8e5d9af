"""vLLM's build for processors, in this process: plain and with its n-gram drafter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import vllm
from vllm import LLM, SamplingParams

LOOKUP_DRAFT = 4
LOOKUP_MATCH = 3


def load(order: dict[str, Any]) -> tuple[dict[str, Any], Callable[[list[list[int]], int], dict[str, Any]]]:
    """From a directory of safetensors; compiled; without caching of prompts, since nobody else has that here."""
    torch.set_num_threads(order["threads"])
    lookup = {
        "method": "ngram",
        "num_speculative_tokens": LOOKUP_DRAFT,
        "prompt_lookup_max": LOOKUP_MATCH,
        "prompt_lookup_min": 1,
    }
    llm = LLM(
        order["model"],
        dtype="bfloat16",
        max_model_len=order["max_context"],
        max_num_seqs=order["streams"],
        enable_prefix_caching=False,
        speculative_config=lookup if order["mode"] == "lookup" else None,
        disable_log_stats=False,
    )
    about = {
        "engine": f"vllm {vllm.__version__}",
        "weights": "bfloat16",
        "bits_per_weight": 16.0,
        "max_streams": order["streams"],
    }
    return about, _generator(llm)


def _generator(llm: LLM) -> Callable[[list[list[int]], int], dict[str, Any]]:
    def generate(prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        law = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        accepted = _accepted(llm)
        started = time.perf_counter()
        results = llm.generate([{"prompt_token_ids": one} for one in prompts], law, use_tqdm=False)
        seconds = time.perf_counter() - started
        outputs = [list(one.outputs[0].token_ids) for one in results]
        steps = sum(map(len, outputs)) - (_accepted(llm) - accepted)
        return {"outputs": outputs, "seconds": seconds, "steps": steps}

    return generate


def _accepted(llm: LLM) -> int:
    """Draft tokens that were right so far."""
    found = [one.value for one in llm.get_metrics() if one.name == "vllm:spec_decode_num_accepted_tokens"]
    return int(sum(found))
