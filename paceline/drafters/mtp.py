"""The multi-token drafter: guesses a block per call from the target's hidden states, batched over sessions.

A session keeps the attention rows of its last positions and the state after the newest one. Frames of hidden states
come with the jobs; where none came, rows are made from the text alone. Guesses beyond the committed tokens go on from
the drafter's own states. It draws with the target's noise (Gumbel coupling), so that it also agrees at a temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DraftJob, Guess, SessionSpec
from paceline.drafters.advice import Adviser
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
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.drafters.mtp_packed import PackedNetwork
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
    """Row i joins the hidden states at position i with token i + 1."""

    sampler: TrimmedSampler
    num_others: int = 0
    """Second choices per place."""
    end: int = 0
    """Position after the newest cached row; rows are contiguous."""
    keys: torch.Tensor | None = None
    """[rows, heads, size], rotated"""
    values: torch.Tensor | None = None
    """[rows, heads, size]"""
    state: torch.Tensor | None = None
    """[width], after the newest row."""

    def rewind(self, position: int) -> None:
        """Forget the rows from ``position`` on."""
        if position < self.end and self.keys is not None and self.values is not None:
            kept = max(0, len(self.keys) - (self.end - position))
            self.keys, self.values, self.state = self.keys[:kept], self.values[:kept], None
        self.end = min(self.end, position)


@dataclass(slots=True)
class _Rows:
    """New rows of one session."""

    session: _Session
    start: int
    words: torch.Tensor
    features: torch.Tensor | None
    """[rows, features]; None for text only."""


def network_from(trained: TrainedDrafter) -> MtpNetwork:
    """The network with its weights. Raises ``InvalidRequest`` when sizes and weights don't fit."""
    shape: NetworkShape = shape_from(trained.about, NetworkShape)
    check_sizes(trained, shape.vocab, shape.features)
    return load_weights(MtpNetwork(shape), trained)


class MtpDrafter:
    """``core.ports.Drafter`` over a trained network."""

    def __init__(self, trained: TrainedDrafter, settings: DrafterSettings) -> None:
        about = trained.about
        with torch.inference_mode():
            quantized = is_quantized(settings.quantize)
            self._network = PackedNetwork(network_from(trained), choose_dtype(settings.dtype), quantized=quantized)
        self._threads = settings.threads
        self._block = choose_block(about.block, settings.block)
        self._window = self._network.shape.window
        self._lexicon = Lexicon(trained)
        self._certainty = Certainty(about)
        self._adviser: Adviser | None = None
        self._sessions: dict[str, _Session] = {}
        info = info_of(about, self._block, settings.max_sessions, is_optional=True)
        self.info = replace(info, weights_bytes=weights_bytes(self._network))

    @classmethod
    def load(cls, settings: DrafterSettings) -> MtpDrafter:
        """Read what ``paceline train mtp`` exported."""
        if not settings.model:
            raise InvalidRequest(
                "model: the mtp drafter needs one; set it to a directory that paceline train has made."
            )
        use_threads(settings.threads)
        return cls(read_trained(Path(settings.model), "mtp"), settings)

    def open(self, spec: SessionSpec) -> None:
        """Remember the law of the session; its rows are made when it is drafted for."""
        require_seat(self._sessions, self.info)
        sampler = self._lexicon.sampler(spec)
        self._sessions[spec.session] = _Session(sampler, most_others(spec, sampler))

    def listen_to(self, adviser: Adviser) -> None:
        """At a temperature, mix its law with the network's."""
        self._adviser = adviser

    def heeds(self, session: str) -> bool:
        """Where tokens are drawn."""
        return self._adviser is not None and self._sessions[session].sampler.takes_advice

    def close(self, session: str) -> None:
        """Forget it."""
        self._sessions.pop(session, None)

    def state_bytes(self) -> int:
        """Cached rows and states."""
        return sum(tensor_bytes(one.keys, one.values, one.state) for one in self._sessions.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """One block for each job; shorter where the chance of being right runs out."""
        use_threads(self._threads)
        with torch.inference_mode():
            self._add_rows([rows for job in jobs for rows in self._new_rows(job)])
            drafts = [self._begin(job) for job in jobs]
            self._grow([draft for draft in drafts if draft.most])
        return [draft.guess(goes_on=False) for draft in drafts]

    def _new_rows(self, job: DraftJob) -> list[_Rows]:
        """Of the committed positions, with the hidden states that came for them or without."""
        session = self._sessions[job.session]
        wanted = job.committed - 1
        if job.features:
            session.rewind(job.features[0].start)
        start = max(session.end, wanted - self._window)
        out = []
        for frame in job.features:
            end = min(frame.start + frame.num_rows, wanted)
            if end <= max(start, frame.start):
                continue
            if start < frame.start:
                out.append(self._rows(session, job, start, frame.start, None))
                start = frame.start
            skipped = start - frame.start
            out.append(self._rows(session, job, start, end, rows_of(frame)[skipped : end - frame.start]))
            start = end
        if start < wanted:
            out.append(self._rows(session, job, start, wanted, None))
        return out

    def _rows(self, session: _Session, job: DraftJob, start: int, end: int, features: torch.Tensor | None) -> _Rows:
        return _Rows(session, start, self._lexicon.own(job.context[start + 1 : end + 1]), features)

    def _add_rows(self, new: Sequence[_Rows]) -> None:
        """All new rows through the first layers at once; the state after each session's newest row."""
        if not new:
            return
        x = torch.cat([self._network.rows(one.features, one.words) for one in new])
        positions = torch.cat([one.start + torch.arange(len(one.words)) for one in new])
        counts = [len(one.words) for one in new]
        newest: dict[int, tuple[_Session, torch.Tensor, torch.Tensor]] = {}
        parts = zip(new, *(part.split(counts) for part in (x, *self._network.project(x, positions))), strict=True)
        for one, rows, q, keys, values in parts:
            self._append(one, keys, values)
            newest[id(one.session)] = (one.session, rows[-1], q[-1])
        sessions, last_x, last_q = zip(*newest.values(), strict=True)
        seen = [(one.keys, one.values) for one in sessions]
        states = self._network.states(torch.stack(last_x), torch.stack(last_q), seen)
        for session, state in zip(sessions, states, strict=True):
            session.state = state

    def _append(self, new: _Rows, keys: torch.Tensor, values: torch.Tensor) -> None:
        session = new.session
        if session.keys is None or session.values is None or new.start != session.end:
            session.keys, session.values = keys[-self._window :], values[-self._window :]
        else:
            session.keys = torch.cat([session.keys, keys])[-self._window :]
            session.values = torch.cat([session.values, values])[-self._window :]
        session.end = new.start + len(keys)

    def _begin(self, job: DraftJob) -> GrowingGuess:
        session = self._sessions[job.session]
        can_guess = session.state is not None and self._lexicon.can_follow(job.context)
        return begin(job, session.sampler, self._block, can_guess=can_guess)

    def _grow(self, drafts: Sequence[GrowingGuess]) -> None:
        states = [self._state(draft) for draft in drafts]
        while drafts:
            stacked = torch.stack(states)
            logits = self._network.logits(stacked)
            for draft, row in zip(drafts, logits, strict=True):
                count = 1 + self._sessions[draft.job.session].num_others
                draft.add(draft.choices(row, self._certainty, count, self._adviser))
            alive = [i for i, one in enumerate(drafts) if one.is_growing]
            drafts = [drafts[i] for i in alive]
            if drafts:
                words = self._lexicon.own([one.tokens[-1] for one in drafts])
                states = list(self._network.advance(stacked[alive], words))

    def _state(self, draft: GrowingGuess) -> torch.Tensor:
        """After the whole context: the guessed part of it is walked through."""
        state = self._sessions[draft.job.session].state
        assert state is not None  # noqa: S101 - invariant: drafts begin with one
        for token in draft.job.context[draft.job.committed :]:
            state = self._network.advance(state[None], self._lexicon.own([token]))[0]
        return state
