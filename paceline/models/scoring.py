"""How likely a text is under a model: one teacher-forced pass, by the same forward that serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from paceline.models.invariance import settle
from paceline.models.loading import choose_dtype, load
from paceline.models.runner import Feed, ModelRunner

CHUNK = 128
"""Rows of a pass at most: logits of long outputs would fill the memory."""
_SESSION = "score"


class TextScorer:
    """Not thread-safe, as the runner."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.numerics_id = runner.numerics_id
        """The logits are bit for bit those of a verifier with this id."""

    @classmethod
    def load(cls, directory: Path, dtype: str, *, max_context: int) -> TextScorer:
        """Read a prepared model; takes seconds."""
        runner = ModelRunner(load(directory, choose_dtype(dtype), max_context=max_context), 1)
        settle(runner)
        return cls(runner)

    def log_likelihood(self, prompt: Sequence[int], output: Sequence[int]) -> float:
        """Sum over ``output`` of log p(token | all before), natural logarithm, temperature 1."""
        text, first = [*prompt, *output], len(prompt) - 1
        total = 0.0
        self._runner.open(_SESSION)
        try:
            for start in range(0, len(text) - 1, CHUNK):
                piece = text[start : min(start + CHUNK, len(text) - 1)]
                keep = max(0, start + len(piece) - max(start, first))
                (logits,) = self._runner.logits([Feed(_SESSION, start, piece, keep)])
                if keep:
                    total += _sum(logits, text[start + len(piece) + 1 - keep : start + len(piece) + 1])
        finally:
            self._runner.close(_SESSION)
        return total


def _sum(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    """Of log-probabilities of ``tokens`` [keep] in ``logits`` [keep, vocab]."""
    chances = logits.double().log_softmax(-1)
    return float(chances.gather(1, torch.tensor(tokens).unsqueeze(1)).sum())
