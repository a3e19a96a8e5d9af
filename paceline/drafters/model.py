"""A smaller language model with the target's tokenizer guesses, batched over sessions, with its own KV slots.

It draws with the target's noise (Gumbel coupling), so that it also agrees at a temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DrafterInfo, DraftJob, Guess, Needs, SessionSpec
from paceline.models.loading import choose_dtype, load, prepare
from paceline.models.runner import Feed, ModelRunner
from paceline.models.sampling import RowSampler
from paceline.models.threads import use_threads
from paceline.sampling.processors import validate

PREFILL = 256
"""Tokens of one session fed in one pass at most."""
MIN_REACH = 0.05
"""A guess ends where the chance that all of it is right falls below this."""
MIN_ROWS = 2
"""Single rows meet another kernel than the target's steps do, so that a target drafting for itself would err."""


@dataclass(slots=True)
class _Session:
    sampler: RowSampler
    cached: list[int] = field(default_factory=list)
    """Tokens whose KV the slot holds."""


@dataclass(slots=True)
class _Draft:
    """A guess that grows."""

    job: DraftJob
    most: int
    """Tokens that there is room for."""
    context: list[int]
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    reach: float = 1.0

    @property
    def is_growing(self) -> bool:
        return len(self.tokens) < self.most and self.reach >= MIN_REACH


class ModelDrafter:
    """``core.ports.Drafter`` over a ``ModelRunner``."""

    def __init__(self, runner: ModelRunner, threads: int) -> None:
        loaded = runner.loaded
        runner.min_rows = MIN_ROWS
        self._runner = runner
        self._threads = threads
        self._sessions: dict[str, _Session] = {}
        self._token_bytes = runner.token_bytes
        self.info = DrafterInfo(
            name=f"model {loaded.name}",
            model_digest=loaded.digest,
            tokenizer_digest=loaded.tokenizer_digest,
            vocab_size=loaded.vocab_size,
            needs=Needs(same_tokenizer=True),
            max_sessions=runner.slots.spare,
            weights_bytes=runner.weights_bytes,
        )

    @classmethod
    def load(cls, settings: DrafterSettings) -> ModelDrafter:
        """Read the model."""
        if not settings.model:
            raise InvalidRequest(
                "model: the model drafter needs one; set it to a smaller model of the target's family."
            )
        use_threads(settings.threads)
        directory: Path = prepare(settings.model)
        loaded = load(directory, choose_dtype(settings.dtype), max_context=settings.max_context)
        return cls(ModelRunner(loaded, settings.max_sessions), settings.threads)

    def open(self, spec: SessionSpec) -> None:
        """Take a KV slot."""
        validate(spec.sampling, self.info.vocab_size)
        self._runner.open(spec.session)
        self._sessions[spec.session] = _Session(RowSampler(spec.sampling, spec.prompt_length))

    def close(self, session: str) -> None:
        """Free it."""
        self._runner.close(session)
        self._sessions.pop(session, None)

    def state_bytes(self) -> int:
        """Keys and values of what is cached; pages come with use."""
        return self._token_bytes * sum(len(one.cached) for one in self._sessions.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Token by token, all sessions in one pass each."""
        use_threads(self._threads)
        drafts = [_Draft(job, self._room(job), list(job.context)) for job in jobs]
        while growing := [draft for draft in drafts if draft.is_growing]:
            for draft, logits in zip(growing, self._next_logits(growing), strict=True):
                self._append(draft, logits)
        return [Guess(one.job.session, tuple(one.tokens), tuple(one.confidences)) for one in drafts]

    def _room(self, job: DraftJob) -> int:
        """Tokens to guess; none for a context with ids that only the target knows."""
        if max(job.context) >= self.info.vocab_size:
            return 0
        return min(job.max_tokens, self._runner.loaded.max_context - len(job.context))

    def _next_logits(self, drafts: Sequence[_Draft]) -> list[torch.Tensor]:
        """Logits after each context; whatever of it is not cached yet is fed first."""
        starts = [self._rewind(draft) for draft in drafts]
        while True:
            feeds = []
            for index, draft in enumerate(drafts):
                end = min(len(draft.context), starts[index] + PREFILL)
                keep = 1 if end == len(draft.context) else 0
                feeds.append(Feed(draft.job.session, starts[index], draft.context[starts[index] : end], keep))
                starts[index] = end - keep  # a session that is done feeds its last token again until all are
            logits = self._runner.logits(feeds)
            if all(feed.keep for feed in feeds):
                break
        for draft in drafts:
            self._sessions[draft.job.session].cached = list(draft.context)
        return [rows[0] for rows in logits]

    def _rewind(self, draft: _Draft) -> int:
        """Length of the common prefix of cache and context, at least one token short of the context."""
        cached = self._sessions[draft.job.session].cached
        most = min(len(cached), len(draft.context) - 1)
        if cached[:most] == draft.context[:most]:
            return most
        return next(i for i in range(most) if cached[i] != draft.context[i])

    def _append(self, draft: _Draft, logits: torch.Tensor) -> None:
        sampler = self._sessions[draft.job.session].sampler
        token = sampler.next_token(logits, draft.context, len(draft.context))
        confidence = float(np.exp((logits[token].float() - torch.logsumexp(logits.float(), 0)).item()))
        draft.tokens.append(token)
        draft.confidences.append(min(max(confidence, 0.0), 1.0))
        draft.context.append(token)
        draft.reach *= confidence
