"""From a row of logits to a token: the specification of ``paceline.sampling`` with a short cut where nothing is lost.

Greedy rows without processors are one argmax. Everything else is the specification itself, with its noise computed
by a compiled kernel that gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.core.types import SamplingParams
from paceline.models.argmax import first_max
from paceline.models.noise import gumbel_argmax
from paceline.models.views import as_array
from paceline.sampling.processors import changes_logits, process


class RowSampler:
    """Draws tokens of sessions; stateless but for buffers."""

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._is_plain = params.temperature == 0.0 and not changes_logits(params)
        self.needs_context = changes_logits(params)
        """Whether ``context`` matters."""

    def next_token(self, logits: torch.Tensor, context: Sequence[int], position: int) -> int:
        """The token at ``position`` from logits [vocab]; ties go to the lowest id."""
        if self._is_plain:
            return int(first_max(as_array(logits)))
        scores = self.scores(logits, context)
        if self._params.temperature == 0.0:
            return int(scores.argmax())
        return gumbel_argmax(scores, self._params.seed, position)

    def scores(self, logits: torch.Tensor, context: Sequence[int]) -> NDArray[np.float64]:
        """Processed scores [vocab]."""
        return process(logits.float().numpy(), self._params, context, self._prompt_length)
