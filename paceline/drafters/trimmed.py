"""Sampling for drafters that know only some of the target's tokens: the target's law and noise over those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.core.types import SamplingParams
from paceline.models.noise import gumbel_argmax
from paceline.models.sampling import RowSampler
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
        self.can_draw = _leaves_any(params, token_ids)
        """False where all that may be said is unknown to the drafter; don't ask for tokens then."""

    def next_token(self, logits: torch.Tensor, context: Sequence[int], position: int) -> int:
        """From logits [vocab] of the drafter's tokens; the token is the target's id."""
        if self._whole is not None:  # penalties and biases name the target's ids
            row = torch.full((self._target_vocab,), -torch.inf)
            row[torch.from_numpy(self._ids)] = logits.float()
            return self._whole.next_token(row, context, position)
        if self.is_greedy:
            return int(self._ids[int(logits.argmax())])
        scores = process(logits.float().numpy(), self._params, (), self._prompt_length)
        return gumbel_argmax(scores, self._params.seed, position, self._ids)


def _leaves_any(params: SamplingParams, token_ids: NDArray[np.int64]) -> bool:
    known = set(token_ids.tolist())
    return bool((known & set(params.allowed_tokens) if params.allowed_tokens else known) - set(params.banned_tokens))
