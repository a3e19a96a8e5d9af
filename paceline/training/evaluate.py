"""How good a drafter is, by real speculative decoding over recorded texts of the target, not by teacher forcing.

The target's text is known, so a verifier is a comparison: whatever the drafter does at its own pace is what it would
do in service, its caches, rollbacks and shortened guesses included. A step checks what a verifier would whose rows
cost nothing: the whole guess, and second choices beside it where the block has room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.config.settings import CoordinatorSettings
from paceline.core.ports import Drafter
from paceline.core.types import Draft, DraftJob, FeatureFrame, Guess, SessionSpec, StopRules, Tokens
from paceline.speculation.alternatives import AlternativeLearner, Share
from paceline.speculation.draft_length import AcceptanceLearner
from paceline.speculation.draft_tree import DraftTree, Path
from paceline.training.generate import Sample
from paceline.training.replayable import is_replayable

Watch = Callable[[Guess, Tokens], None]
FAN_OUT = CoordinatorSettings().fan_out
TOGETHER = 32
"""Sessions per call of the drafter."""


@dataclass(frozen=True, slots=True)
class Score:
    """Of one text or several."""

    num_tokens: int = 0
    """Committed by steps that could have drafts: all of the output but its first token."""
    num_steps: int = 0
    num_drafted: int = 0
    num_accepted: int = 0

    @property
    def tau(self) -> float:
        """Mean acceptance length, the target's own token included."""
        return self.num_tokens / max(self.num_steps, 1)

    def __add__(self, other: Score) -> Score:
        return Score(
            self.num_tokens + other.num_tokens,
            self.num_steps + other.num_steps,
            self.num_drafted + other.num_drafted,
            self.num_accepted + other.num_accepted,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """Of the held-out texts that can be replayed."""

    greedy: Score = Score()
    sampled: Score = Score()
    num_greedy: int = 0
    """Texts."""
    num_sampled: int = 0
    num_left_out: int = 0
    """Sampled with other noise than the service's: no drafter could meet them but by chance."""

    @property
    def total(self) -> Score:
        """Of both kinds."""
        return self.greedy + self.sampled

    def figures(self, head: str) -> dict[str, Any]:
        """By names that begin with ``head``; None where no text was judged."""
        kinds = {"": self.total, "_greedy": self.greedy, "_sampled": self.sampled}
        taus = {f"{head}tau{kind}": round(one.tau, 3) if one.num_steps else None for kind, one in kinds.items()}
        counts = {"greedy": self.num_greedy, "sampled": self.num_sampled, "left_out": self.num_left_out}
        return {**taus, f"{head}texts": counts}


@dataclass(slots=True)
class _Replay:
    session: str
    sample: Sample
    committed: int
    sent: int
    """Position up to which hidden states were handed over."""
    score: Score = Score()
    acceptance: AcceptanceLearner = field(default_factory=AcceptanceLearner)
    seconds: AlternativeLearner = field(default_factory=AlternativeLearner)

    def job(self, block: int) -> DraftJob:
        frames = tuple(self._frames())
        context = self.sample.tokens[: self.committed]
        return DraftJob(self.session, context, self.committed, block, frames)

    def _frames(self) -> Iterator[FeatureFrame]:
        features, end = self.sample.features, self.committed - 1
        if features is None or end <= self.sent:
            return
        rows = features[self.sent - self.sample.features_start : end - self.sample.features_start]
        bits: NDArray[np.int16] = rows.contiguous().view(torch.int16).numpy()
        yield FeatureFrame(self.sent, len(rows), bits.tobytes())
        self.sent = end

    def verify(self, guess: Guess, block: int) -> None:
        """The target takes what is right and adds its own token; one token more where a second choice was right."""
        truth = self.sample.tokens[self.committed :]
        path = self._path(guess, block)
        accepted = path.count_right(truth)
        share = Share(path, self.acceptance.chances(path), self.seconds.chances(path), len(path), block - len(path))
        beside = [(one.index, one.token) for _, one in share.worth()]
        self.acceptance.observe(path, accepted)
        if accepted < min(len(path), len(truth)):
            self.seconds.observe(path, accepted, truth[accepted])
            accepted += (accepted, truth[accepted]) in beside
        made = min(accepted + 1, len(truth))
        self.score += Score(made, 1, len(path) + len(beside), accepted)
        self.committed += made

    def _path(self, guess: Guess, block: int) -> Path:
        tree = DraftTree(self.sample.tokens[: self.committed])
        tree.add(Draft(self.session, self.committed, guess.token_ids, guess.confidences, guess.branches))
        return tree.path(block)

    @property
    def is_done(self) -> bool:
        return self.committed >= len(self.sample.tokens)


def judge(drafter: Drafter, samples: Sequence[Sample], block: int) -> Judged:
    """Replay what can be replayed, greedy and sampled texts apart."""
    greedy = [one for one in samples if not one.temperature]
    sampled = [one for one in samples if one.temperature and is_replayable(one)]
    return Judged(
        sum(replay(drafter, greedy, block), Score()),
        sum(replay(drafter, sampled, block), Score()),
        len(greedy),
        len(sampled),
        len(samples) - len(greedy) - len(sampled),
    )


def replay(drafter: Drafter, samples: Sequence[Sample], block: int, watch: Watch | None = None) -> list[Score]:
    """One score per sample; ``watch`` sees every guess, and what the target said from there on."""
    scores = []
    for start in range(0, len(samples), TOGETHER):
        group = [_open(drafter, i, sample) for i, sample in enumerate(samples[start : start + TOGETHER])]
        while running := [one for one in group if not one.is_done]:
            guesses = drafter.extend([one.job(block) for one in running])
            for one, guess in zip(running, guesses, strict=True):
                if watch is not None:
                    watch(guess, one.sample.tokens[one.committed :])
                one.verify(guess, block)
        for one in group:
            drafter.close(one.session)
        scores += [one.score for one in group]
    return scores


def _open(drafter: Drafter, index: int, sample: Sample) -> _Replay:
    first = min(sample.prompt_length + 1, len(sample.tokens))
    spec = SessionSpec(
        f"{index}",
        sample.tokens[:first],
        sample.prompt_length,
        sample.sampling,
        StopRules(max_tokens=1),
        fan_out=FAN_OUT,
    )
    drafter.open(spec)
    return _Replay(spec.session, sample, first, sample.features_start)
