"""From raw logits to the scores that a token is drawn from. Order as in vLLM, so that parameters mean the same:

repetition (prompt + output), frequency and presence (output), logit bias, allowed and banned tokens,
temperature, min-p, top-k, top-p. Dropped tokens score -inf; at least one token always survives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.core.errors import InvalidRequest
from paceline.core.types import SamplingParams
from paceline.sampling.noise import split_seed

Scores = NDArray[np.float64]

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "top_k": (0, math.inf),
    "top_p": (math.ulp(0.0), 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
"""Closed ranges; NaN is outside of every one."""


def validate(params: SamplingParams, vocab_size: int) -> None:
    """Raise ``InvalidRequest`` naming the field when a value is out of range or no token could ever be drawn."""
    for name, (low, high) in RANGES.items():
        value = getattr(params, name)
        if not low <= value <= high:
            shown = f"(0, {high:g}]" if name == "top_p" else f"[{low:g}, {high:g}]"
            raise InvalidRequest(f"{name} must be in {shown}, got {value}.")
    split_seed(params.seed)
    for name, ids in _token_fields(params):
        for token in ids:
            if not 0 <= token < vocab_size:
                raise InvalidRequest(f"{name} has token id {token}, but the vocabulary has {vocab_size} tokens.")
    for token, bias in params.logit_bias:
        if not -100.0 <= bias <= 100.0:
            raise InvalidRequest(f"logit_bias of token {token} must be in [-100, 100], got {bias}.")
    _require_a_token(params, vocab_size)


def _token_fields(params: SamplingParams) -> list[tuple[str, Sequence[int]]]:
    biased = [token for token, _ in params.logit_bias]
    return [
        ("logit_bias", biased),
        ("allowed_token_ids", params.allowed_tokens),
        ("banned_token_ids", params.banned_tokens),
    ]


def _require_a_token(params: SamplingParams, vocab_size: int) -> None:
    banned = set(params.banned_tokens)
    left = set(params.allowed_tokens) - banned if params.allowed_tokens else vocab_size - len(banned)
    if not left:
        raise InvalidRequest("banned_token_ids leaves no token to choose from; allow at least one.")


def changes_logits(params: SamplingParams) -> bool:
    """Whether anything happens to the logits before the temperature."""
    return bool(
        params.repetition_penalty != 1.0
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.allowed_tokens
        or params.banned_tokens
    )


def process(logits: NDArray[np.floating], params: SamplingParams, context: Sequence[int], prompt_length: int) -> Scores:
    """Scores [vocab] for the position after ``context``; -inf where a token is dropped. Does not change ``logits``."""
    scores = logits.astype(np.float64)
    if changes_logits(params):
        penalise(scores, params, context, prompt_length)
        mask(scores, params)
    if params.temperature == 0.0:
        return scores
    scores -= scores.max()  # the top scores keep their precision, however low the temperature
    with np.errstate(over="ignore"):  # -inf is right for what overflows
        scores /= params.temperature
    return truncate(scores, params)


def penalise(scores: Scores, params: SamplingParams, context: Sequence[int], prompt_length: int) -> None:
    """Repetition (Keskar et al., 2019), frequency and presence penalties and the bias, in place."""
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(context, np.int64))
        values = scores[seen]
        factor = params.repetition_penalty
        scores[seen] = np.where(values > 0, values / factor, values * factor)
    if params.frequency_penalty or params.presence_penalty:
        tokens, counts = np.unique(np.asarray(context[prompt_length:], np.int64), return_counts=True)
        scores[tokens] -= params.frequency_penalty * counts + params.presence_penalty
    for token, bias in params.logit_bias:
        scores[token] += bias


def mask(scores: Scores, params: SamplingParams) -> None:
    """Drop what is banned or not allowed, in place."""
    if params.allowed_tokens:
        kept = np.asarray(params.allowed_tokens, np.int64)
        values = scores[kept].copy()
        scores[:] = -np.inf
        scores[kept] = values
    if params.banned_tokens:
        scores[np.asarray(params.banned_tokens, np.int64)] = -np.inf


def truncate(scores: Scores, params: SamplingParams) -> Scores:
    """Min-p (Nguyen et al., 2024), top-k, then top-p (Holtzman et al., 2020), in place.

    Equal scores: top-k keeps all that tie with the k-th; top-p takes lower ids first.
    """
    top = scores.max()
    if params.min_p > 0.0:
        scores[scores < top + math.log(params.min_p)] = -np.inf
    if 0 < params.top_k < len(scores):
        kth = np.partition(scores, len(scores) - params.top_k)[len(scores) - params.top_k]
        scores[scores < kth] = -np.inf
    if params.top_p < 1.0:
        drop_tail(scores, params.top_p)
    return scores


def drop_tail(scores: Scores, top_p: float) -> None:
    """Keep the smallest likeliest set whose mass reaches ``top_p``, in place.

    Tokens below (1 - top_p) / vocab hold less than 1 - top_p together, so none of them can be needed:
    only the others are sorted.
    """
    weights = np.exp(scores - scores.max())
    total = weights.sum()
    candidates = np.flatnonzero(weights >= (1.0 - top_p) / len(weights) * total)
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    mass = np.cumsum(weights[order])
    kept = order[: int(np.searchsorted(mass, top_p * total)) + 1]
    values = scores[kept].copy()
    scores[:] = -np.inf
    scores[kept] = values


def probabilities(scores: Scores) -> Scores:
    """Softmax of scores, [vocab]."""
    weights = np.exp(scores - scores.max())
    out: Scores = weights / weights.sum()
    return out
