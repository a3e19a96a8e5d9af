"""Guesses the hash model's tokens with a chosen rate of agreement; the same context gets the same guess.

Beside its first choice it can name others, among which the target's token is with a chosen chance, and a call can take
a time, which its caller lets go by (``pacing``): a drafter of any quality and speed, without weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from paceline.config.settings import SyntheticSettings
from paceline.core.types import Branch, DrafterInfo, DraftJob, Guess, SessionSpec
from paceline.drafters.seats import require_seat
from paceline.models.hash_model import HashModel
from paceline.sampling.processors import validate

AGREES, IS_AMONG, RANK = range(3)
"""Lanes of chance."""
MOST_JOBS = 64
"""Of one session in a call."""


class SyntheticDrafter:
    """``core.ports.Drafter`` for the synthetic verifier."""

    def __init__(self, max_sessions: int, settings: SyntheticSettings) -> None:
        self.info = DrafterInfo(
            name="synthetic", max_sessions=max_sessions, vocab_size=settings.vocab_size, jobs_per_session=MOST_JOBS
        )
        self._model = HashModel(settings.vocab_size, settings.model_seed)
        self._agreement = settings.agreement
        self._settings = settings
        self._specs: dict[str, SessionSpec] = {}
        self._owed_s = 0.0

    def open(self, spec: SessionSpec) -> None:
        """Remember its sampling parameters."""
        require_seat(self._specs, self.info)
        validate(spec.sampling, self.info.vocab_size)
        self._specs[spec.session] = spec

    def close(self, session: str) -> None:
        """Forget it."""
        self._specs.pop(session, None)

    def state_bytes(self) -> int:
        """Nothing is kept of a text."""
        return 0

    def take_owed_s(self) -> float:
        """Time that the calls since the last question should have taken."""
        owed, self._owed_s = self._owed_s, 0.0
        return owed

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Token by token."""
        guesses = [self._extend(job) for job in jobs]
        lengths = sorted((len(guess.token_ids) for guess in guesses), reverse=True)
        settings = self._settings
        self._owed_s += settings.call_base_s + settings.call_token_s * lengths[0] if lengths else 0.0
        self._owed_s += settings.call_row_s * sum(lengths[1:])
        return guesses

    def _extend(self, job: DraftJob) -> Guess:
        spec, context = self._specs[job.session], list(job.context)
        ranks = _shares(min(self._settings.alternatives, spec.fan_out))
        branches: list[Branch] = []
        for _ in range(job.max_tokens):
            token = self._model.next_token(context, spec.sampling, spec.prompt_length)
            is_right = self._model.chance(context, AGREES) < self._agreement
            first = token if is_right else self._other(token, 1)
            named = self._named(context, token, is_right)[: len(ranks)]
            branches += [
                Branch(0, len(context), (other,), (share * self._settings.hit * (1.0 - self._agreement),))
                for other, share in zip(named, ranks, strict=True)
            ]
            context.append(first)
        tokens = tuple(context[len(job.context) :])
        return Guess(job.session, tokens, (self._agreement,) * len(tokens), tuple(branches))

    def _named(self, context: Sequence[int], token: int, is_right: bool) -> list[int]:
        """All alternatives, best first: the target's token has its rank among them, if it is there at all."""
        count = self._settings.alternatives
        named = [self._other(token, 2 + rank) for rank in range(count)]
        if not is_right and count and self._model.chance(context, IS_AMONG) < self._settings.hit:
            named[_rank(self._model.chance(context, RANK), count)] = token
        return named

    def _other(self, token: int, step: int) -> int:
        return (token + step) % self._model.vocab_size


def _shares(count: int) -> list[float]:
    """Of each rank: half of the one before."""
    weights = [0.5**rank for rank in range(count)]
    return [weight / sum(weights) for weight in weights]


def _rank(chance: float, count: int) -> int:
    """The rank whose share a uniform number falls into."""
    bounds = list(accumulate(_shares(count)))
    return next((rank for rank, bound in enumerate(bounds) if chance < bound), count - 1)
