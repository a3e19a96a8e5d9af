"""Samples on disk as padded batches of rows: what the network sees at each position, and what it should say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from paceline.training.generate import Sample


class Vocabulary:
    """Which of the target's tokens the drafter knows; all others share the id ``len(self)``."""

    def __init__(self, token_ids: Sequence[int], target_size: int) -> None:
        self.token_ids = torch.tensor(sorted(token_ids))
        self._own = torch.full((target_size,), len(self.token_ids))
        self._own[self.token_ids] = torch.arange(len(self.token_ids))

    def __len__(self) -> int:
        return len(self.token_ids)

    def own(self, target_ids: torch.Tensor) -> torch.Tensor:
        """The drafter's ids of the target's."""
        return self._own[target_ids.long()]


def likeliest(counts: torch.Tensor, size: int, always: Sequence[int] = ()) -> list[int]:
    """The ``size`` tokens seen most often, ``always`` among them."""
    counts = counts.clone()
    counts[list(always)] = counts.max() + 1
    return sorted(counts.topk(min(size, len(counts))).indices.tolist())


@dataclass(frozen=True, slots=True)
class Batch:
    """Row i of a sample stands for position i: the target's hidden states there and the token after it."""

    features: torch.Tensor
    """[batch, rows, features] bfloat16"""
    words: torch.Tensor
    """[batch, rows] own id of the next token"""
    targets: torch.Tensor
    """[batch, rows, block] own id of the token j + 2 positions on"""
    is_scored: torch.Tensor
    """[batch, rows, block]: the target made that token itself"""
    valid: torch.Tensor
    """[batch, rows]"""
    positions: torch.Tensor
    """[batch, rows]"""
    top_ids: torch.Tensor
    """[batch, rows, block, k] own ids of the target's likeliest tokens there"""
    top_logprobs: torch.Tensor
    """[batch, rows, block, k]"""

    def to(self, device: torch.device) -> Batch:
        """The same rows there."""
        return Batch(*(getattr(self, column.name).to(device) for column in fields(self)))


def make_batch(samples: Sequence[Sample], vocabulary: Vocabulary, block: int) -> Batch:
    """Pad samples with features to one length."""
    parts = [_rows(sample, vocabulary, block) for sample in samples]
    columns = [torch.nn.utils.rnn.pad_sequence([part[i] for part in parts], batch_first=True) for i in range(7)]
    features, words, targets, is_scored, positions, top_ids, top_logprobs = columns
    valid = torch.nn.utils.rnn.pad_sequence([torch.ones(len(part[1]), dtype=torch.bool) for part in parts], True)
    return Batch(features, words, targets, is_scored, valid, positions, top_ids, top_logprobs)


def _rows(sample: Sample, vocabulary: Vocabulary, block: int) -> tuple[torch.Tensor, ...]:
    assert sample.features is not None and sample.top_ids is not None and sample.top_logprobs is not None  # noqa: S101, PT018
    tokens = torch.tensor(sample.tokens)
    own = vocabulary.own(tokens)
    positions = torch.arange(sample.features_start, len(tokens) - 1)
    ahead = positions[:, None] + 2 + torch.arange(block)
    is_scored = (ahead > sample.prompt_length) & (ahead < len(tokens))
    ahead = ahead.clamp(max=len(tokens) - 1)
    made = (ahead - sample.prompt_length).clamp(min=0)
    return (
        sample.features,
        own[positions + 1],
        own[ahead],
        is_scored,
        positions,
        vocabulary.own(sample.top_ids)[made],
        sample.top_logprobs[made],
    )


def batches(samples: Sequence[Sample], vocabulary: Vocabulary, block: int, rows: int, seed: int) -> Iterator[Batch]:
    """Batches of about ``rows`` rows, samples of like length together, shuffled."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    for chunk in (order[i : i + 512] for i in range(0, len(order), 512)):
        chunk.sort(key=lambda i: len(samples[i].tokens) - samples[i].features_start)
        groups: list[list[Sample]] = [[]]
        for index in chunk:
            sample = samples[index]
            longest = len(sample.tokens) - sample.features_start
            if (len(groups[-1]) + 1) * longest > rows and groups[-1]:
                groups.append([])
            groups[-1].append(sample)
        generator = torch.Generator().manual_seed(seed + chunk[0])
        for i in torch.randperm(len(groups), generator=generator).tolist():
            yield make_batch(groups[i], vocabulary, block)
