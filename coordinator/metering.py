"""Counts what speculation did for one request, in the shape that vLLM's benchmark clients read."""

from __future__ import annotations

from paceline.core.requests import SpeculativeMetrics
from paceline.core.types import Commit, KvFrame


class SpeculativeMeter:
    """Fed with every verifier step of one request."""

    def __init__(self, max_draft: int) -> None:
        self._max_draft = max_draft
        self._histogram = [0] * (max_draft + 1)
        self._num_steps = 0
        self._num_draft_tokens = 0
        self._num_feature_bytes = 0

    def frame(self, frame: KvFrame) -> None:
        """Keys and values that went to the drafter."""
        self._num_feature_bytes += len(frame.rows.bf16)

    def step(self, commit: Commit) -> None:
        """A verifier step that committed tokens."""
        self._num_steps += 1
        if commit.features is not None:
            self._num_feature_bytes += len(commit.features.bf16)
        if commit.drafted > 0:
            self._num_draft_tokens += commit.drafted
            self._histogram[min(commit.accepted, self._max_draft)] += 1

    def result(self) -> SpeculativeMetrics:
        """As of now; the mean acceptance length includes the token that the target adds to each step."""
        steps = sum(self._histogram)
        accepted = sum(length * count for length, count in enumerate(self._histogram))
        return SpeculativeMetrics(
            mean_acceptance_length=1 + accepted / steps if steps else 0.0,
            draft_acceptance_rate=accepted / self._num_draft_tokens if self._num_draft_tokens else 0.0,
            acceptance_histogram=tuple(self._histogram),
            num_spec_steps=steps,
            num_accepted_draft_tokens=accepted,
            num_draft_tokens=self._num_draft_tokens,
            num_spec_tokens=self._max_draft,
            num_steps=self._num_steps,
            num_feature_bytes=self._num_feature_bytes,
        )
