"""What a block of guesses is taught: to be right where the tokens before it were right.

Place j of a block counts ``decay ** j``, since it only matters when all places before it were accepted. A place's loss
mixes three terms: cross-entropy with the token that the target made, cross-entropy with the target's distribution
(its likeliest tokens; KL up to a constant), and -log of the overlap sum(min(p, q)), the acceptance rate itself
(LK losses, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Shares of the terms."""

    decay: float = 0.8
    soft: float = 0.5
    """Share of the distribution's term; the token's has the rest."""
    overlap: float = 0.0
    """Weight of the acceptance term, on top."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One place of a block, for n rows."""

    targets: torch.Tensor
    """[n] own ids; ``vocab`` for tokens that the drafter does not know"""
    is_scored: torch.Tensor
    """[n]"""
    top_ids: torch.Tensor
    """[n, k] own ids"""
    top_logprobs: torch.Tensor
    """[n, k]"""


def place_loss(logits: torch.Tensor, lesson: Lesson, weights: LossWeights) -> torch.Tensor:
    """Mean over the rows [n, vocab] that count; tokens that the drafter can't say teach nothing."""
    vocab = logits.shape[-1]
    logprobs = logits.float().log_softmax(-1)
    counts = lesson.is_scored & (lesson.targets < vocab)
    hard = -logprobs.gather(1, lesson.targets.clamp(max=vocab - 1)[:, None])[:, 0]
    is_known = lesson.top_ids < vocab
    p = lesson.top_logprobs.float().exp() * is_known
    log_q = logprobs.gather(1, lesson.top_ids.clamp(max=vocab - 1))
    loss = (1.0 - weights.soft) * hard - weights.soft * (p * log_q).sum(1)
    if weights.overlap:
        overlap = torch.minimum(p, log_q.exp() * is_known).sum(1)
        loss = loss - weights.overlap * (overlap + 1e-6).log()
    return (loss * counts).sum() / lesson.is_scored.sum().clamp(min=1)
