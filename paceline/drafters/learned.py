"""What drafters that ``paceline train`` made share: the words they know, how sure they are, guesses that grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from paceline.core.errors import InvalidRequest
from paceline.core.types import DrafterInfo, DraftJob, Needs, SessionSpec
from paceline.drafters.description import Description
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, check_weights
from paceline.drafters.trimmed import TrimmedSampler
from paceline.sampling.processors import validate

MIN_REACH = 0.08
"""A guess ends where the chance that all of it is right falls below this."""
MAX_ODDS = 30.0
"""Logarithm of the most extreme odds: nothing is certain, and ``exp`` does not overflow."""
NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Lexicon:
    """The target's tokens that the drafter knows, by its own ids; all others share one more id."""

    def __init__(self, trained: TrainedDrafter) -> None:
        self._target_vocab = trained.about.target.vocab_size
        self._ids = trained.token_ids.numpy()
        self._own = torch.full((self._target_vocab + 1,), len(self._ids))
        self._own[trained.token_ids] = torch.arange(len(self._ids))

    def own(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Own ids of the target's; whatever is unknown has one id, even beyond the target's vocabulary."""
        return self._own[torch.tensor(token_ids).clamp(max=self._target_vocab)]

    def own_of(self, token: int) -> int:
        """Of a token that the drafter drew."""
        return int(self._own[token])

    def sampler(self, spec: SessionSpec) -> TrimmedSampler:
        """The law of a session. Raises ``InvalidRequest`` when it names tokens that the target lacks."""
        validate(spec.sampling, self._target_vocab)
        return TrimmedSampler(spec.sampling, spec.prompt_length, self._ids, self._target_vocab)

    def can_follow(self, context: Sequence[int]) -> bool:
        """False after an id that only another vocabulary has."""
        return context[-1] < self._target_vocab


class Certainty:
    """Calibrated: what a guess's own probability says of its chance to be right, per place in the block."""

    def __init__(self, about: Description) -> None:
        self._curves = about.calibration

    def confidence(self, logprob: float, place: int) -> float:
        """In (0, 1); places beyond the last curve use it."""
        slope, offset = self._curves[min(place, len(self._curves) - 1)]
        odds = logprob - math.log(-math.expm1(min(logprob, -1e-6)))
        return 1.0 / (1.0 + math.exp(min(max(-(slope * odds + offset), -MAX_ODDS), MAX_ODDS)))


@dataclass(slots=True)
class GrowingGuess:
    """A guess that gets longer place by place."""

    job: DraftJob
    sampler: TrimmedSampler
    most: int
    """Tokens that there is room for."""
    context: list[int]
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    reach: float = 1.0
    """Chance that all of it is right."""

    @property
    def place(self) -> int:
        """In the block, of the next token."""
        return len(self.context) - self.job.committed

    @property
    def is_growing(self) -> bool:
        """There is room, and some chance that a further token is of use."""
        return len(self.tokens) < self.most and self.reach >= MIN_REACH

    def add(self, token: int, confidence: float) -> None:
        """At the end."""
        self.tokens.append(token)
        self.confidences.append(confidence)
        self.context.append(token)
        self.reach *= confidence


def begin(job: DraftJob, sampler: TrimmedSampler, block: int, *, can_guess: bool) -> GrowingGuess:
    """An empty guess after the job's context; a block begins where the committed tokens end."""
    ahead = len(job.context) - job.committed
    most = max(0, min(job.max_tokens, block - ahead)) if can_guess and sampler.can_draw else 0
    return GrowingGuess(job, sampler, most, list(job.context))


def info_of(about: Description, block: int, max_sessions: int, *, is_optional: bool = False) -> DrafterInfo:
    """The answer to Describe; ``is_optional``: it also guesses without hidden states."""
    return DrafterInfo(
        name=f"{about.kind} {about.name}",
        model_digest=about.weights_digest,
        tokenizer_digest=about.target.tokenizer_digest,
        vocab_size=about.target.vocab_size,
        needs=Needs(
            hidden_states=about.taps,
            history=about.history,
            same_tokenizer=True,
            hidden_size=about.target.hidden_size,
            is_optional=is_optional,
            target_digest=about.target.digest,
        ),
        max_sessions=max_sessions,
        max_window=block,
    )


def choose_block(trained: int, wanted: int) -> int:
    """0 is what the drafter was trained for. Raises ``InvalidRequest`` beyond."""
    if wanted > trained:
        raise InvalidRequest(f"block: the drafter was trained for blocks of {trained} tokens, not {wanted}; lower it.")
    return wanted or trained


def load_weights(network: NetworkT, trained: TrainedDrafter) -> NetworkT:
    """``network`` with the weights, in float32. Raises ``InvalidRequest`` when they don't fit its sizes."""
    weights = {name: tensor for name, tensor in trained.weights.items() if name != TOKEN_IDS}
    check_weights(trained.about, weights, {name: tuple(one.shape) for name, one in network.state_dict().items()})
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    network.eval()
    return network
