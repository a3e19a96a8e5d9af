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
        self._num_drawable = _count_drawable(params, token_ids)
        self.can_draw = self._num_drawable > 0
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

    def choices(self, logits: torch.Tensor, context: Sequence[int], position: int, count: int) -> list[int]:
        """``next_token``, then what it would be without the ones before; at most ``count``, all different."""
        found: list[int] = []
        left = logits.clone()
        for _ in range(min(count, self._num_drawable)):
            found.append(self.next_token(left, context, position))
            left[int(np.searchsorted(self._ids, found[-1]))] = -torch.inf
        return found


def _count_drawable(params: SamplingParams, token_ids: NDArray[np.int64]) -> int:
    known = set(token_ids.tolist())
    return len((known & set(params.allowed_tokens) if params.allowed_tokens else known) - set(params.banned_tokens))
