"""What drafters that ``paceline train`` made share: the words they know, how sure they are, guesses that grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from paceline.core.errors import InvalidRequest
from paceline.core.types import Branch, DrafterInfo, DraftJob, Guess, Needs, SessionSpec
from paceline.drafters.advice import Adviser
from paceline.drafters.description import Description
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, check_weights
from paceline.drafters.trimmed import TrimmedSampler
from paceline.sampling.processors import validate

MIN_REACH = 0.08
"""A guess ends where the chance that all of it is right falls below this."""
MOST_GREEDY_OTHERS = 4
MOST_OTHERS = 8
"""Second choices per place at most; a session may want fewer."""
MIN_BRANCH, MIN_WARM_BRANCH = 0.03, 0.005
"""Branches that are needed less often than this are not sent; noise spreads what may come over more of them."""
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
        self._warm_curves = about.warm_calibration or about.calibration

    def confidence(self, logprob: float, place: int, *, is_warm: bool) -> float:
        """In (0, 1), of a draw with noise or without; places beyond the last curve use it."""
        curves = self._warm_curves if is_warm else self._curves
        slope, offset = curves[min(place, len(curves) - 1)]
        odds = logprob - math.log(-math.expm1(min(logprob, -1e-6)))
        return 1.0 / (1.0 + math.exp(min(max(-(slope * odds + offset), -MAX_ODDS), MAX_ODDS)))


@dataclass(frozen=True, slots=True)
class Others:
    """What else a place of a guess may be."""

    position: int
    reach: float
    """Chance that the guess is right up to here."""
    choices: tuple[tuple[int, float], ...]
    """Tokens and their confidences."""


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
    others: list[Others] = field(default_factory=list)
    """By place."""
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

    def choices(
        self, logits: torch.Tensor, certainty: Certainty, count: int, adviser: Adviser | None = None
    ) -> list[tuple[int, float]]:
        """The next token, what it would be without it, ..., with their confidences; logits [vocab]."""
        advice = adviser.advise(self.job, self.context) if adviser and self.sampler.takes_advice else None
        found = self.sampler.choices(logits, self.context, len(self.context), count, advice)
        is_warm = self.sampler.is_warm
        return [(token, certainty.confidence(logprob, self.place, is_warm=is_warm)) for token, logprob in found]

    def add(self, choices: Sequence[tuple[int, float]]) -> None:
        """The first choice at the end; the others, with what their confidences leave each other, aside."""
        left, kept = 1.0, []
        for token, confidence in choices:
            kept.append((token, min(left, confidence)))
            left -= kept[-1][1]
        self.others.append(Others(len(self.context), self.reach, tuple(kept[1:])))
        token, confidence = kept[0]
        self.tokens.append(token)
        self.confidences.append(confidence)
        self.context.append(token)
        self.reach *= confidence

    def guess(self, *, goes_on: bool) -> Guess:
        """With branches in the order of their chance to be needed.

        ``goes_on``: a branch goes on as the main path does, whose tokens don't depend on those before.
        """
        found: list[tuple[float, Branch]] = []
        for index, place in enumerate(self.others, start=1):
            rest = slice(index, None if goes_on else index)
            for token, confidence in place.choices:
                tokens, chances = (token, *self.tokens[rest]), (confidence, *self.confidences[rest])
                found.append((place.reach * confidence, Branch(0, place.position, tokens, chances)))
        found.sort(key=lambda entry: -entry[0])
        least = MIN_WARM_BRANCH if self.sampler.is_warm else MIN_BRANCH
        branches = tuple(branch for chance, branch in found if chance >= least)
        return Guess(self.job.session, tuple(self.tokens), tuple(self.confidences), branches)


def most_others(spec: SessionSpec, sampler: TrimmedSampler) -> int:
    """Second choices per place that are looked for; noise makes more of them likely enough."""
    return min(spec.fan_out, MOST_OTHERS if sampler.is_warm else MOST_GREEDY_OTHERS)


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
