"""A language model made of hashes: any process computes the same logits, in microseconds, without weights or torch.

What the synthetic verifier and drafter run on, for tests, load and experiments. The next token depends on the last
eight tokens and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.core.types import SamplingParams
from paceline.sampling.accept import sample
from paceline.sampling.noise import bits, uniform, uniforms
from paceline.sampling.processors import changes_logits, process

ORDER = 8
"""Tokens that the next one depends on."""
PEAKS = (8.0, 7.0, 6.0, 5.0)
"""Logits of the likeliest tokens; all others are below 1."""


class HashModel:
    """Stateless and cheap to make."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self.vocab_size = vocab_size
        self.digest = hashlib.sha256(f"hash-model/{vocab_size}/{seed}/{ORDER}/{PEAKS}".encode()).hexdigest()
        self._seed = seed

    def _key(self, context: Sequence[int]) -> int:
        text = ",".join(map(str, context[-ORDER:]))
        return int.from_bytes(hashlib.blake2b(f"{self._seed}:{text}".encode(), digest_size=8).digest(), "little")

    def peaks(self, context: Sequence[int]) -> list[int]:
        """The likeliest next tokens, best first, without repeats."""
        key = self._key(context)
        ids = [(key >> (16 * i)) % self.vocab_size for i in range(len(PEAKS))]
        return list(dict.fromkeys(ids))

    def logits(self, context: Sequence[int]) -> NDArray[np.float32]:
        """Logits [vocab] of the token after ``context``."""
        row = uniforms(bits(self._key(context), 0, np.arange(self.vocab_size))).astype(np.float32)
        for token, logit in reversed(list(zip(self.peaks(context), PEAKS, strict=False))):
            row[token] = logit
        return row

    def next_token(self, context: Sequence[int], params: SamplingParams, prompt_length: int) -> int:
        """The target's token after ``context``; greedy without processors needs no row."""
        if params.temperature == 0.0 and not changes_logits(params):
            return self.peaks(context)[0]
        scores = process(self.logits(context), params, context, prompt_length)
        return sample(scores, params.seed, len(context), greedy=params.temperature == 0.0)

    def chance(self, context: Sequence[int], lane: int) -> float:
        """A uniform number that only depends on the context, for drafters with a chosen agreement."""
        return uniform(self._key(context), len(context), lane)
