"""Guesses the hash model's tokens with a chosen rate of agreement; the same context gets the same guess."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.config.settings import SyntheticSettings
from paceline.core.types import DrafterInfo, DraftJob, Guess, SessionSpec
from paceline.drafters.seats import require_seat
from paceline.models.hash_model import HashModel
from paceline.sampling.processors import validate


class SyntheticDrafter:
    """``core.ports.Drafter`` for the synthetic verifier."""

    def __init__(self, max_sessions: int, settings: SyntheticSettings) -> None:
        self.info = DrafterInfo(name="synthetic", max_sessions=max_sessions, vocab_size=settings.vocab_size)
        self._model = HashModel(settings.vocab_size, settings.model_seed)
        self._agreement = settings.agreement
        self._specs: dict[str, SessionSpec] = {}

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

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Token by token."""
        return [self._extend(job) for job in jobs]

    def _extend(self, job: DraftJob) -> Guess:
        spec, context = self._specs[job.session], list(job.context)
        for _ in range(job.max_tokens):
            token = self._model.next_token(context, spec.sampling, spec.prompt_length)
            if self._model.chance(context, 0) >= self._agreement:
                token = (token + 1) % self._model.vocab_size
            context.append(token)
        tokens = tuple(context[len(job.context) :])
        return Guess(job.session, tokens, (self._agreement,) * len(tokens))
