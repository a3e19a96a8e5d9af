"""OpenVINO GenAI: continuous batching over the GGUF file's own quantisation, plain and with prompt lookup."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy
import openvino
import openvino_genai as genai

LOOKUP_MATCH, LOOKUP_DRAFT = 3, 5
"""Of prompt lookup: tokens that must repeat at most, and draft tokens after them: as its documentation has them."""
CACHE_GB = 1


def load(order: dict[str, Any]) -> tuple[dict[str, Any], Callable[[list[list[int]], int], dict[str, Any]]]:
    """From the GGUF file; without caching of prompts, since nobody else has that here."""
    scheduling = genai.SchedulerConfig()
    scheduling.cache_size = CACHE_GB
    scheduling.max_num_seqs = order["streams"]
    scheduling.enable_prefix_caching = False
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": order["threads"]}
    is_lookup = order["mode"] == "lookup"
    if is_lookup:
        options["prompt_lookup"] = True
    pipeline = genai.ContinuousBatchingPipeline(order["model"], scheduling, "CPU", options)
    about = {
        "engine": f"openvino-genai {genai.__version__}",
        "weights": order["weights"],
        "bits_per_weight": order["bits_per_weight"],
        "max_streams": order["streams"],
    }
    return about, _generator(pipeline, is_lookup=is_lookup)


def _generator(
    pipeline: genai.ContinuousBatchingPipeline, *, is_lookup: bool
) -> Callable[[list[list[int]], int], dict[str, Any]]:
    def generate(prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        config = _config(max_tokens, is_lookup=is_lookup)
        inputs = [openvino.Tensor(numpy.array([one], dtype=numpy.int64)) for one in prompts]
        started = time.perf_counter()
        results = pipeline.generate(inputs, [config] * len(inputs))
        seconds = time.perf_counter() - started
        outputs = [list(one.m_generation_ids[0]) for one in results]
        return {"outputs": outputs, "seconds": seconds, "steps": _steps(results, max_tokens, is_lookup=is_lookup)}

    return generate


def _steps(results: list[Any], max_tokens: int, *, is_lookup: bool) -> int | None:
    """With lookup it counts the steps of the batch, which are a prompt's only when that is alone."""
    if not is_lookup:
        return max_tokens * len(results)
    return len(results[0].perf_metrics.raw_metrics.m_batch_sizes) if len(results) == 1 else None


def _config(max_tokens: int, *, is_lookup: bool) -> genai.GenerationConfig:
    config = genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    if is_lookup:
        config.num_assistant_tokens = LOOKUP_DRAFT
        config.max_ngram_size = LOOKUP_MATCH
    return config
