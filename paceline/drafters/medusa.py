"""The heads drafter: a block per call from the newest hidden state, its second choices as branches.

A session keeps the newest row only. The heads don't know what was guessed before their place, so that a branch goes on
as the main path does. It draws with the target's noise (Gumbel coupling), so that it also agrees at a temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DraftJob, Guess, SessionSpec
from paceline.drafters.description import shape_from
from paceline.drafters.learned import (
    Certainty,
    GrowingGuess,
    Lexicon,
    begin,
    choose_block,
    info_of,
    load_weights,
    most_others,
)
from paceline.drafters.medusa_network import MedusaNetwork, MedusaShape, PackedMedusa
from paceline.drafters.seats import require_seat
from paceline.drafters.trained import TrainedDrafter, check_sizes, read_trained
from paceline.drafters.trimmed import TrimmedSampler
from paceline.models.footprint import tensor_bytes, weights_bytes
from paceline.models.frames import rows_of
from paceline.models.loading import choose_dtype
from paceline.models.packed import is_quantized
from paceline.models.threads import use_threads


@dataclass(slots=True)
class _Session:
    sampler: TrimmedSampler
    num_others: int
    position: int = -1
    """Of the newest row, which joins the hidden states there with the token after it."""
    row: torch.Tensor | None = None
    """[width]"""


def network_from(trained: TrainedDrafter) -> MedusaNetwork:
    """The network with its weights. Raises ``InvalidRequest`` when sizes and weights don't fit."""
    shape: MedusaShape = shape_from(trained.about, MedusaShape)
    check_sizes(trained, shape.vocab, shape.features)
    if trained.about.block > shape.heads:
        raise InvalidRequest(f"block: {trained.about.block} places need as many heads, not {shape.heads}.")
    return load_weights(MedusaNetwork(shape), trained)


class MedusaDrafter:
    """``core.ports.Drafter`` over trained heads."""

    def __init__(self, trained: TrainedDrafter, settings: DrafterSettings) -> None:
        about = trained.about
        with torch.inference_mode():
            quantized = is_quantized(settings.quantize)
            self._network = PackedMedusa(network_from(trained), choose_dtype(settings.dtype), quantized=quantized)
        self._threads = settings.threads
        self._block = choose_block(about.block, settings.block)
        self._lexicon = Lexicon(trained)
        self._certainty = Certainty(about)
        self._sessions: dict[str, _Session] = {}
        info = info_of(about, self._block, settings.max_sessions)
        self.info = replace(info, weights_bytes=weights_bytes(self._network))

    @classmethod
    def load(cls, settings: DrafterSettings) -> MedusaDrafter:
        """Read what ``paceline train medusa`` exported."""
        if not settings.model:
            raise InvalidRequest(
                "model: the medusa drafter needs one; set it to a directory that paceline train has made."
            )
        use_threads(settings.threads)
        return cls(read_trained(Path(settings.model), "medusa"), settings)

    def open(self, spec: SessionSpec) -> None:
        """Remember the law of the session; its row is made when it is drafted for."""
        require_seat(self._sessions, self.info)
        sampler = self._lexicon.sampler(spec)
        self._sessions[spec.session] = _Session(sampler, most_others(spec, sampler))

    def close(self, session: str) -> None:
        """Forget it."""
        self._sessions.pop(session, None)

    def state_bytes(self) -> int:
        """One row per session."""
        return sum(tensor_bytes(one.row) for one in self._sessions.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """One block for each job; shorter where the chance of being right runs out."""
        use_threads(self._threads)
        with torch.inference_mode():
            self._add_rows(jobs)
            drafts = [self._begin(job) for job in jobs]
            self._grow(drafts)
        return [draft.guess(goes_on=True) for draft in drafts]

    def _add_rows(self, jobs: Sequence[DraftJob]) -> None:
        """The newest row of every session; hidden states that came for it win over what was made without."""
        seen, unseen = [], []
        for job in jobs:
            position = job.committed - 2
            if position < 0:
                continue
            features = _features(job, position)
            if features is not None:
                seen.append((job, features))
            elif self._sessions[job.session].position != position:
                unseen.append(job)
        if seen:
            self._keep([job for job, _ in seen], torch.stack([features for _, features in seen]))
        if unseen:
            self._keep(unseen, None)

    def _keep(self, jobs: Sequence[DraftJob], features: torch.Tensor | None) -> None:
        words = self._lexicon.own([job.context[job.committed - 1] for job in jobs])
        for job, row in zip(jobs, self._network.rows(features, words), strict=True):
            session = self._sessions[job.session]
            session.position, session.row = job.committed - 2, row

    def _begin(self, job: DraftJob) -> GrowingGuess:
        session = self._sessions[job.session]
        can_guess = job.committed >= 2 and self._lexicon.can_follow(job.context)
        return begin(job, session.sampler, self._block, can_guess=can_guess)

    def _grow(self, drafts: Sequence[GrowingGuess]) -> None:
        """Place by place, for all sessions that are there at once."""
        for place in range(self._block):
            growing = [draft for draft in drafts if draft.place == place and draft.is_growing]
            if not growing:
                continue
            logits = self._network.logits(self._network.states(torch.stack([self._row(one) for one in growing]), place))
            for draft, row in zip(growing, logits, strict=True):
                count = 1 + self._sessions[draft.job.session].num_others
                draft.add(draft.choices(row, self._certainty, count))

    def _row(self, draft: GrowingGuess) -> torch.Tensor:
        row = self._sessions[draft.job.session].row
        assert row is not None  # noqa: S101 - invariant: guesses begin with one
        return row


def _features(job: DraftJob, position: int) -> torch.Tensor | None:
    """[features] that came for a position."""
    for frame in reversed(job.features):
        if frame.start <= position < frame.start + frame.num_rows:
            return rows_of(frame)[position - frame.start]
    return None
