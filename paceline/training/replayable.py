"""Whether a recorded text can be replayed: a drafter that draws with the service's noise must be able to meet it.

Greedy texts can. A sampled text can when its tokens win with the noise of its seed, which is seen from the likeliest
tokens that were kept with it, without the target. Of texts that were drawn otherwise nearly every second token loses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paceline.sampling.noise import gumbel
from paceline.training.generate import Sample

PRECISION = 2.0**-7
"""Kept log-probabilities are bfloat16: two of them may differ by this share of the lowest one through rounding."""


def is_replayable(sample: Sample) -> bool:
    """False also where nothing was kept that could tell."""
    if not sample.temperature or sample.law is not None:  # the service itself drew what it served
        return True
    if sample.top_ids is None or sample.top_logprobs is None:
        return False
    outputs = sample.tokens[sample.prompt_length :]
    rows = zip(outputs, sample.top_ids.long().numpy(), sample.top_logprobs.double().numpy(), strict=True)
    return all(_could_win(sample, sample.prompt_length + place, *row) for place, row in enumerate(rows))


def _could_win(
    sample: Sample, position: int, token: int, ids: NDArray[np.int64], logprobs: NDArray[np.float64]
) -> bool:
    """Whether no kept token has a score plus noise above that of ``token``, which is at most the lowest one's if it is
    not among them."""
    own = logprobs[ids == token] if token in ids else logprobs.min(keepdims=True)
    best = (logprobs / sample.temperature + gumbel(sample.seed, position, ids)).max()
    score = own[0] / sample.temperature + gumbel(sample.seed, position, np.array([token]))[0]
    slack = PRECISION * float(-logprobs.min()) / sample.temperature
    return bool(score >= best - slack)
