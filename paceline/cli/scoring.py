"""Who can say how likely the outputs are: the served model once more, in this process, after the measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from paceline.core.errors import InvalidRequest, Mismatch
from paceline.core.types import VerifierInfo
from paceline.models.hash_model import HashModel


class Scorer(Protocol):
    """The target."""

    def log_likelihood(self, prompt: Sequence[int], output: Sequence[int]) -> float:
        """Sum of the log-probabilities of the output's tokens, temperature 1."""


class HashScorer:
    """For the synthetic target."""

    def __init__(self, model: HashModel) -> None:
        self._model = model

    def log_likelihood(self, prompt: Sequence[int], output: Sequence[int]) -> float:
        """Token by token."""
        context, total = [*prompt], 0.0
        for token in output:
            logits = self._model.logits(context).astype(np.float64)
            total += float(logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
            context.append(token)
        return total


def is_synthetic(target: VerifierInfo) -> bool:
    """It is a hash model that anybody can compute."""
    return HashModel(target.vocab_size).digest == target.model_digest


def choose_scorer(target: VerifierInfo, directory: Path | None) -> Callable[[], Scorer]:
    """What makes the scorer when it is time; raises ``Mismatch`` now when ``directory`` holds another model."""
    if is_synthetic(target):
        return lambda: HashScorer(HashModel(target.vocab_size))
    if directory is None:
        raise InvalidRequest("model: name the target's model, or leave its judgement out with --no-likelihood.")
    from paceline.models.loading import model_digest
    from paceline.models.scoring import TextScorer

    ours = model_digest(directory)
    if ours != target.model_digest:
        raise Mismatch(
            f"model: {directory.name} has digest {ours[:12]}, the verifier serves {target.model_digest[:12]}; name the "
            "verifier's model, or leave its judgement out with --no-likelihood."
        )
    return lambda: TextScorer.load(directory, target.dtype, max_context=target.max_context)
