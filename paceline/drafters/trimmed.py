"""Sampling for drafters that know only some of the target's tokens: the target's law and noise over those."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.core.types import SamplingParams
from paceline.drafters.advice import BOLDNESS, Advice, blend
from paceline.models.argmax import best, log_total
from paceline.models.noise import with_noise
from paceline.models.sampling import RowSampler
from paceline.models.views import as_array
from paceline.sampling.processors import changes_logits, process


class TrimmedSampler:
    """Draws the drafter's own ids for one session."""

    def __init__(
        self, params: SamplingParams, prompt_length: int, token_ids: NDArray[np.int64], target_vocab: int
    ) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._ids = token_ids
        self._target_vocab = target_vocab
        self._whole = RowSampler(params, prompt_length) if changes_logits(params) else None
        self.is_greedy = params.temperature == 0.0 and self._whole is None
        """The likeliest token it is, whatever the context."""
        self.is_warm = params.temperature > 0.0
        """There is noise in what is drawn."""
        self._num_drawable = _count_drawable(params, token_ids)
        self.takes_advice = self.is_warm and self._whole is None
        """Penalties and biases depend on what the adviser does not know."""
        self.can_draw = self._num_drawable > 0
        """False where all that may be said is unknown to the drafter; don't ask for tokens then."""

    def choices(
        self, logits: torch.Tensor, context: Sequence[int], position: int, count: int, advice: Advice | None = None
    ) -> list[tuple[int, float]]:
        """The target's ids of what would be drawn, of what would be without the first, ...; at most ``count``.

        logits [vocab] of the drafter's tokens. With each the logarithm of its chance to be the target's draw, which
        has the same noise: that of the logits with the noise in them. ``advice`` may bring further tokens; give it
        only where the sampler ``takes_advice``.
        """
        if self.is_greedy:
            row = as_array(logits)
            total = log_total(row)
            return [(int(self._ids[own]), float(logits[own]) - total) for own in best(row, count)]
        scores, tokens, kept = self._law(logits, context)
        if advice is not None:
            scores, tokens = blend(scores, tokens, advice)
            scores = BOLDNESS * scores
        if self.is_warm:
            scores = self._params.temperature * with_noise(scores, self._params.seed, position, tokens)
        order = _largest(scores, count)
        total = float(scores[order[0]]) + math.log(np.exp(scores - scores[order[0]]).sum()) - kept
        return [(int(tokens[own]), float(scores[own]) - total) for own in order]

    def _law(
        self, logits: torch.Tensor, context: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
        """Scores and ids of the tokens that may be drawn, and the logarithm of their share in the logits' law."""
        if self._whole is not None:  # penalties and biases name the target's ids
            row = torch.full((self._target_vocab,), -torch.inf)
            row[torch.from_numpy(self._ids)] = logits.float()
            scores = self._whole.scores(row, context)
            alive = np.flatnonzero(scores > -np.inf)
            return scores[alive], alive, 0.0
        row = logits.float().numpy()
        scores = process(row, self._params, (), self._prompt_length)
        alive = np.flatnonzero(scores > -np.inf)
        return scores[alive], self._ids[alive], log_total(row[alive]) - log_total(row)


def _largest(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest scores, in their order."""
    chosen = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _count_drawable(params: SamplingParams, token_ids: NDArray[np.int64]) -> int:
    known = set(token_ids.tolist())
    return len((known & set(params.allowed_tokens) if params.allowed_tokens else known) - set(params.banned_tokens))
