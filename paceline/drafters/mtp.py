"""The multi-token drafter: guesses a block per call from the target's hidden states, batched over sessions.

A session keeps the attention rows of its last positions and the state after the newest one. Frames of hidden states
come with the jobs; where none came, rows are made from the text alone. Guesses beyond the committed tokens go on from
the drafter's own states. It draws with the target's noise (Gumbel coupling), so that it also agrees at a temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DrafterInfo, DraftJob, FeatureFrame, Guess, Needs, SessionSpec
from paceline.drafters.description import shape_from
from paceline.drafters.mtp_network import MtpNetwork, NetworkShape
from paceline.drafters.mtp_packed import PackedNetwork
from paceline.drafters.seats import require_seat
from paceline.drafters.trained import TOKEN_IDS, TrainedDrafter, check_sizes, check_weights, read_trained
from paceline.drafters.trimmed import TrimmedSampler
from paceline.models.loading import choose_dtype
from paceline.models.threads import use_threads
from paceline.sampling.processors import validate

MIN_REACH = 0.08
"""A guess ends where the chance that all of it is right falls below this."""
MAX_ODDS = 30.0
"""Logarithm of the most extreme odds: nothing is certain, and ``exp`` does not overflow."""


@dataclass(slots=True)
class _Session:
    """Row i joins the hidden states at position i with token i + 1."""

    sampler: TrimmedSampler
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


@dataclass(slots=True)
class _Draft:
    """A guess that grows."""

    job: DraftJob
    sampler: TrimmedSampler
    most: int
    context: list[int]
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    reach: float = 1.0


def network_from(trained: TrainedDrafter) -> MtpNetwork:
    """The network with its weights. Raises ``InvalidRequest`` when sizes and weights don't fit."""
    shape: NetworkShape = shape_from(trained.about, NetworkShape)
    check_sizes(trained, shape.vocab, shape.features)
    network = MtpNetwork(shape)
    weights = {name: tensor for name, tensor in trained.weights.items() if name != TOKEN_IDS}
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    check_weights(trained.about, weights, wanted)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    network.eval()
    return network


class MtpDrafter:
    """``core.ports.Drafter`` over a trained network."""

    def __init__(self, trained: TrainedDrafter, settings: DrafterSettings) -> None:
        about = trained.about
        with torch.inference_mode():
            self._network = PackedNetwork(network_from(trained), choose_dtype(settings.dtype))
        self._threads = settings.threads
        self._calibration = about.calibration
        self._block = _block(about.block, settings.block)
        self._window = self._network.shape.window
        self._target_vocab = about.target.vocab_size
        self._ids = trained.token_ids.numpy()
        self._own = torch.full((about.target.vocab_size + 1,), len(self._ids))
        self._own[trained.token_ids] = torch.arange(len(self._ids))
        self._sessions: dict[str, _Session] = {}
        self.info = DrafterInfo(
            name=f"{about.kind} {about.name}",
            model_digest=about.weights_digest,
            tokenizer_digest=about.target.tokenizer_digest,
            vocab_size=about.target.vocab_size,
            needs=Needs(hidden_states=about.taps, history=about.history, same_tokenizer=True),
            max_sessions=settings.max_sessions,
            max_window=self._block,
        )

    @classmethod
    def load(cls, settings: DrafterSettings) -> MtpDrafter:
        """Read what ``paceline train mtp`` exported."""
        if not settings.model:
            raise InvalidRequest(
                "model: the mtp drafter needs one; set it to a directory that paceline train has made."
            )
        return cls(read_trained(Path(settings.model), "mtp"), settings)

    def open(self, spec: SessionSpec) -> None:
        """Remember the law of the session; its rows are made when it is drafted for."""
        require_seat(self._sessions, self.info)
        validate(spec.sampling, self.info.vocab_size)
        sampler = TrimmedSampler(spec.sampling, spec.prompt_length, self._ids, self._target_vocab)
        self._sessions[spec.session] = _Session(sampler)

    def close(self, session: str) -> None:
        """Forget it."""
        self._sessions.pop(session, None)

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """One block for each job; shorter where the chance of being right runs out."""
        if torch.get_num_threads() != self._threads:
            use_threads(self._threads)
        with torch.inference_mode():
            self._add_rows([rows for job in jobs for rows in self._new_rows(job)])
            drafts = [self._begin(job) for job in jobs]
            self._grow([draft for draft in drafts if draft.most])
        return [Guess(one.job.session, tuple(one.tokens), tuple(one.confidences)) for one in drafts]

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
            out.append(self._rows(session, job, start, end, _tensor(frame)[skipped : end - frame.start]))
            start = end
        if start < wanted:
            out.append(self._rows(session, job, start, wanted, None))
        return out

    def _rows(self, session: _Session, job: DraftJob, start: int, end: int, features: torch.Tensor | None) -> _Rows:
        return _Rows(session, start, self._own_ids(job.context[start + 1 : end + 1]), features)

    def _own_ids(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Of the target's; whatever the drafter does not know has one id, even beyond the target's vocabulary."""
        return self._own[torch.tensor(token_ids).clamp(max=self._target_vocab)]

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

    def _begin(self, job: DraftJob) -> _Draft:
        session = self._sessions[job.session]
        ahead = len(job.context) - job.committed
        can_guess = session.state is not None and session.sampler.can_draw and job.context[-1] < self._target_vocab
        most = max(0, min(job.max_tokens, self._block - ahead)) if can_guess else 0
        return _Draft(job, session.sampler, most, list(job.context))

    def _grow(self, drafts: Sequence[_Draft]) -> None:
        states = [self._state(draft) for draft in drafts]
        while drafts:
            stacked = torch.stack(states)
            logits = self._network.logits(stacked)
            chances = logits.float().log_softmax(-1)
            for draft, row, logprobs in zip(drafts, logits, chances, strict=True):
                self._append_token(draft, row, logprobs)
            alive = [i for i, one in enumerate(drafts) if len(one.tokens) < one.most and one.reach >= MIN_REACH]
            drafts = [drafts[i] for i in alive]
            if drafts:
                words = self._own_ids([one.tokens[-1] for one in drafts])
                states = list(self._network.advance(stacked[alive], words))

    def _state(self, draft: _Draft) -> torch.Tensor:
        """After the whole context: the guessed part of it is walked through."""
        state = self._sessions[draft.job.session].state
        assert state is not None  # noqa: S101 - invariant: drafts begin with one
        for token in draft.job.context[draft.job.committed :]:
            state = self._network.advance(state[None], self._own_ids([token]))[0]
        return state

    def _append_token(self, draft: _Draft, logits: torch.Tensor, logprobs: torch.Tensor) -> None:
        token = draft.sampler.next_token(logits, draft.context, len(draft.context))
        place = len(draft.context) - draft.job.committed
        confidence = self._confidence(float(logprobs[self._own[token]]), place)
        draft.tokens.append(token)
        draft.confidences.append(confidence)
        draft.context.append(token)
        draft.reach *= confidence

    def _confidence(self, logprob: float, place: int) -> float:
        slope, offset = self._calibration[min(place, len(self._calibration) - 1)]
        odds = logprob - math.log(-math.expm1(min(logprob, -1e-6)))
        return 1.0 / (1.0 + math.exp(min(max(-(slope * odds + offset), -MAX_ODDS), MAX_ODDS)))


def _block(trained: int, wanted: int) -> int:
    if wanted > trained:
        raise InvalidRequest(f"block: the drafter was trained for blocks of {trained} tokens, not {wanted}; lower it.")
    return wanted or trained


def _tensor(frame: FeatureFrame) -> torch.Tensor:
    """[rows, features] bfloat16"""
    bits = torch.from_numpy(np.frombuffer(frame.bf16, np.int16).reshape(frame.num_rows, -1).copy())
    return bits.view(torch.bfloat16)
