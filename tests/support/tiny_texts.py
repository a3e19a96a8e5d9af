"""Made-up training samples, and lines that hold them to what a target would have left."""

from __future__ import annotations

import torch

from paceline.training.generate import Sample

VOCAB = 40
FEATURES = 12
NUM_TOP = 4


def make_sample(
    length: int = 20,
    prompt_length: int = 6,
    start: int = 0,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    vocab: int = VOCAB,
    features: int = FEATURES,
) -> Sample:
    """Random tokens, hidden states and likeliest tokens."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    made = length - prompt_length
    logprobs = torch.randn(made, NUM_TOP, generator=generator).log_softmax(-1).sort(-1, descending=True).values
    top = torch.rand(made, vocab, generator=generator).argsort(-1)[:, :NUM_TOP]
    return Sample(
        tuple(torch.randint(0, vocab, (length,), generator=generator).tolist()),
        prompt_length,
        start,
        temperature,
        seed,
        torch.randn(length - 1 - start, features, generator=generator).bfloat16(),
        top.int(),
        logprobs.bfloat16(),
    )


def are_equal(one: Sample, other: Sample) -> bool:
    """In every field; tensors by their bits and types."""
    tensors = ("features", "top_ids", "top_logprobs")
    plain = ("tokens", "prompt_length", "features_start", "temperature", "seed", "law")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        _is_same(getattr(one, name), getattr(other, name)) for name in tensors
    )


def _is_same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)
