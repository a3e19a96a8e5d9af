"""Many continuations at once with the target's own forward pass, for training data: tokens and, when wanted, features.

Not the serving path: sessions come and go within one loop. Sampled texts are those that the service would give with the
same parameters and seed, so that drafters can be judged by replaying them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from paceline.core.types import SamplingParams, Tokens
from paceline.models.noise import gumbel_argmax
from paceline.models.runner import Feed, ModelRunner
from paceline.sampling.processors import process

NUM_CANDIDATES = 64
"""The ``top_k`` of sampled texts: noise for a whole vocabulary would cost as much as the model."""
PREFILL_ROWS = 256
"""Prompt tokens fed per step at most, so that those who decode are not held up."""


@dataclass(frozen=True, slots=True)
class Job:
    """One continuation to make."""

    prompt: Tokens
    temperature: float = 0.0
    """0 is greedy."""
    max_tokens: int = 128
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A finished continuation."""

    tokens: Tokens
    """Prompt and output."""
    prompt_length: int
    features_start: int = 0
    """Position of the first row of ``features``."""
    temperature: float = 0.0
    seed: int = 0
    features: torch.Tensor | None = None
    """[len(tokens) - 1 - features_start, taps * hidden], bfloat16: the last token was never fed."""
    top_ids: torch.Tensor | None = None
    """[output, k] likeliest tokens at each output position, int32."""
    top_logprobs: torch.Tensor | None = None
    """[output, k] at temperature 1, bfloat16."""
    law: SamplingParams | None = None
    """Of a text that was served, which may have any; None of those that were made for training."""

    @property
    def sampling(self) -> SamplingParams:
        """The law that made it."""
        return self.law or sampling(self.temperature, self.seed)


def sampling(temperature: float, seed: int) -> SamplingParams:
    """The law of generated texts."""
    top_k = NUM_CANDIDATES if temperature else 0
    return SamplingParams(temperature=temperature, top_k=top_k, seed=seed if temperature else 0)


@dataclass(slots=True)
class _Run:
    index: int
    job: Job
    tokens: list[int]
    fed: int = 0
    pieces: list[torch.Tensor] = field(default_factory=list)
    tops: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its session's."""
        return str(self.index)


def top_tokens(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest tokens [rows, count] int32 and their log-probabilities at temperature 1, bfloat16."""
    top = logits.topk(count, -1)
    logprobs = top.values.float() - logits.float().logsumexp(-1, keepdim=True)
    return top.indices.int(), logprobs.bfloat16()


class Generator:
    """Keeps as many continuations going as the runner has slots; prompts must leave room for their answers."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        taps: tuple[int, ...] = (),
        history: int = 64,
        num_top: int = 0,
        stop_token_ids: Sequence[int] = (),
    ) -> None:
        self._runner = runner
        self._taps = taps
        self._history = history
        self._num_top = num_top
        self._stops = frozenset(stop_token_ids or runner.loaded.stop_token_ids)

    def run(self, jobs: Iterable[tuple[int, Job]]) -> Iterator[tuple[int, Sample]]:
        """Jobs and samples with the callers' numbers, in the order in which they end."""
        waiting = iter(jobs)
        active: list[_Run] = []
        while True:
            while len(active) < self._runner.slots.spare and (entry := next(waiting, None)) is not None:
                active.append(self._open(*entry))
            if not active:
                return
            self._step(active)
            for run in [one for one in active if self._is_done(one)]:
                active.remove(run)
                self._runner.close(run.name)
                yield run.index, self._sample(run)

    def _open(self, index: int, job: Job) -> _Run:
        run = _Run(index, job, list(job.prompt))
        self._runner.open(run.name)
        return run

    def _is_done(self, run: _Run) -> bool:
        made = len(run.tokens) - len(run.job.prompt)
        return made >= run.job.max_tokens or (made > 0 and run.tokens[-1] in self._stops)

    def _step(self, active: Sequence[_Run]) -> None:
        feeds, fed = [], []
        room = PREFILL_ROWS
        for run in active:
            rest = len(run.tokens) - run.fed
            count = rest if rest == 1 else min(rest, room)
            if not count:
                continue
            room -= count if rest > 1 else 0
            piece = run.tokens[run.fed : run.fed + count]
            feeds.append(Feed(run.name, run.fed, piece, 1 if count == rest else 0))
            fed.append(run)
        outputs = self._runner.run(feeds, self._taps)
        for run, feed, output in zip(fed, feeds, outputs, strict=True):
            if output.features is not None:
                run.pieces.append(self._recent(run, feed, output.features))
            run.fed += len(feed.tokens)
        ready = [(run, output.logits[0]) for run, output in zip(fed, outputs, strict=True) if len(output.logits)]
        if ready:
            for (run, _), token in zip(ready, self._draw(ready), strict=True):
                run.tokens.append(token)

    def _recent(self, run: _Run, feed: Feed, features: torch.Tensor) -> torch.Tensor:
        skipped = max(0, self._first(run) - feed.start)
        return features[skipped:].to(torch.bfloat16, copy=True)

    def _first(self, run: _Run) -> int:
        return max(0, len(run.job.prompt) - self._history)

    def _draw(self, ready: Sequence[tuple[_Run, torch.Tensor]]) -> list[int]:
        logits = torch.stack([row for _, row in ready])
        if self._num_top:
            for (run, _), ids, values in zip(ready, *top_tokens(logits, self._num_top), strict=True):
                run.tops.append((ids, values))
        drawn: list[int] = logits.argmax(-1).tolist()
        for i, (run, row) in enumerate(ready):
            if run.job.temperature:
                drawn[i] = _sample(row, run)
        return drawn

    def _sample(self, run: _Run) -> Sample:
        length = len(run.job.prompt)
        features = torch.cat(run.pieces) if run.pieces else None
        law = (run.job.temperature, run.job.seed)
        sample = Sample(tuple(run.tokens), length, self._first(run), *law, features)
        if not run.tops:
            return sample
        ids, values = zip(*run.tops, strict=True)
        return replace(sample, top_ids=torch.stack(ids), top_logprobs=torch.stack(values))


def _sample(logits: torch.Tensor, run: _Run) -> int:
    """By the law of ``sampling``, without noise for tokens that it drops; those that tie with the last one stay."""
    last = logits.topk(min(NUM_CANDIDATES, len(logits))).values[-1]
    ids = (logits >= last).nonzero()[:, 0]
    params = sampling(run.job.temperature, run.job.seed)
    scores = process(logits[ids].float().numpy(), params, (), 0)
    return gumbel_argmax(scores, params.seed, len(run.tokens), ids.numpy())
