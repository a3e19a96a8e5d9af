"""Hugging Face's Gemma 4 assistants: small networks that read the target's own keys, values and last hidden state.

They have no prefill. Every guess looks at the target's committed positions from the place of the newest token; what
came between is carried from token to token in one vector. In the verifier's process they read the target's own cache;
elsewhere a copy of the two layers that they look at, which frames keep up to date. Either is a ``TargetView``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.ports import TargetState
from paceline.core.types import DrafterInfo, DraftJob, FeatureFrame, Guess, Needs, SessionSpec
from paceline.drafters.gemma_network import GemmaNetwork, Row, every_layer_shared, needed_kv
from paceline.drafters.gemma_target import read_target
from paceline.models.footprint import tensor_bytes
from paceline.models.loading import LoadedModel, choose_dtype, load, prepare
from paceline.models.mirror import TargetMirror
from paceline.models.rows import LAST
from paceline.models.sampling import RowSampler
from paceline.models.threads import use_threads
from paceline.models.view import TargetView
from paceline.sampling.processors import validate

MIN_REACH = 0.05
"""A guess ends where the chance that all of it is right falls below this."""


@dataclass(slots=True)
class _Session:
    sampler: RowSampler
    position: int = -1
    """Of ``hidden``."""
    hidden: torch.Tensor | None = None
    """[hidden] the target's last hidden state there."""


@dataclass(slots=True)
class _Draft:
    """A guess that grows; first over what others have guessed since the last commit, then by its own tokens."""

    job: DraftJob
    state: torch.Tensor
    """[hidden] what the network knows of the tokens before the next one."""
    given: list[int]
    """Guesses of others that it stands on."""
    tokens: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    reach: float = 1.0
    num_fed: int = 0
    """Tokens after the newest committed one that the network has seen."""

    @property
    def next_token(self) -> int:
        """What the network gets next: the newest committed token, then the path."""
        return ([self.job.context[self.job.committed - 1], *self.given, *self.tokens])[self.num_fed]

    @property
    def is_following(self) -> bool:
        """It has not come to the end of what others guessed."""
        return self.num_fed < len(self.given)


class GemmaAssistantDrafter:
    """``core.ports.Drafter``; batched over sessions."""

    def __init__(
        self,
        network: GemmaNetwork,
        target: TargetView,
        max_sessions: int,
        *,
        mirror: TargetMirror | None = None,
        threads: int = 1,
        min_reach: float = MIN_REACH,
    ) -> None:
        """mirror: what ``target`` views, if it is a copy."""
        self._network = network
        self._target = target
        self._mirror = mirror
        self._threads = threads
        self._min_reach = min_reach
        self._sessions: dict[str, _Session] = {}
        self.info = DrafterInfo(
            name=f"gemma_assistant {network.name}",
            model_digest=network.digest,
            tokenizer_digest=target.tokenizer_digest,
            vocab_size=target.vocab_size,
            needs=Needs(
                hidden_states=(LAST,),
                history=1,
                hidden_size=target.hidden_size,
                target_digest=target.model_digest,
                kv=network.needed_kv,
            ),
            max_sessions=max_sessions,
            weights_bytes=network.weights_bytes + (0 if mirror is None else mirror.weights_bytes),
        )

    @classmethod
    def load(cls, settings: DrafterSettings, target: TargetState | None) -> GemmaAssistantDrafter:
        """Raises ``InvalidRequest`` without a target and for an assistant that was made for another one."""
        if not settings.model:
            raise InvalidRequest("model: gemma_assistant needs one; set it to the target's assistant.")
        if target is None:
            return cls.load_elsewhere(settings, choose_dtype(settings.dtype))
        if not isinstance(target, TargetView):
            raise InvalidRequest(
                "drafter: gemma_assistant reads its target's keys and values, which only the torch back end shows."
            )
        loaded = _load_assistant(settings, target.dtype, target.max_context)
        return cls(GemmaNetwork(loaded, target), target, settings.max_sessions, threads=settings.threads)

    @classmethod
    def load_elsewhere(cls, settings: DrafterSettings, dtype: torch.dtype) -> GemmaAssistantDrafter:
        """For a target in another process that computes in ``dtype``; raises as ``load``."""
        if not settings.target:
            raise InvalidRequest(
                "target: gemma_assistant reads its target's embedding; set it to the verifier's model, or run the "
                "assistant in the verifier's process."
            )
        use_threads(settings.threads)
        described, embed = read_target(settings.target, dtype, settings.max_context)
        loaded = _load_assistant(settings, dtype, described.max_context)
        shapes = needed_kv(loaded.model.config)
        mirror = TargetMirror(described, embed, shapes, settings.max_sessions)
        network, sessions = GemmaNetwork(loaded, mirror.view), settings.max_sessions
        return cls(network, mirror.view, sessions, mirror=mirror, threads=settings.threads)

    def open(self, spec: SessionSpec) -> None:
        """In the verifier's process keys and values are the target's: nothing to prepare."""
        validate(spec.sampling, self.info.vocab_size)
        if self._mirror is not None:
            self._mirror.open(spec.session)
        self._sessions[spec.session] = _Session(RowSampler(spec.sampling, spec.prompt_length))

    def close(self, session: str) -> None:
        """Forget its last hidden state, and the copy of its keys and values."""
        self._sessions.pop(session, None)
        if self._mirror is not None:
            self._mirror.close(session)

    def state_bytes(self) -> int:
        """The newest hidden state per session, and the copy of keys and values if there is one."""
        copied = 0 if self._mirror is None else self._mirror.state_bytes()
        return copied + sum(tensor_bytes(one.hidden) for one in self._sessions.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Token by token, all sessions in one pass each; empty where the target's state is of another position."""
        use_threads(self._threads)
        drafts = {job.session: draft for job in jobs if (draft := self._begin(job)) is not None}
        while growing := [one for one in drafts.values() if self._is_growing(one)]:
            rows = [Row(one.job.session, one.job.committed - 1, one.next_token, one.state) for one in growing]
            for draft, logits, state in zip(growing, *self._network.step(rows), strict=True):
                self._advance(draft, logits, state)
        return [self._guess(job, drafts.get(job.session)) for job in jobs]

    def _begin(self, job: DraftJob) -> _Draft | None:
        session = self._sessions[job.session]
        for frame in job.features:
            _remember(session, frame)
        if self._mirror is not None:
            for rows in job.kv:
                self._mirror.add(rows)
        newest = job.committed - 1
        # The newest token has no keys, values or hidden state yet: its own step computes them.
        if session.hidden is None or session.position != newest - 1 or self._target.length(job.session) != newest:
            return None
        return _Draft(job, session.hidden.to(self._target.dtype), list(job.context[job.committed :]))

    def _is_growing(self, draft: _Draft) -> bool:
        room = min(draft.job.max_tokens, self._target.max_context - len(draft.job.context))
        return len(draft.tokens) < room and draft.reach >= self._min_reach

    def _advance(self, draft: _Draft, logits: torch.Tensor, state: torch.Tensor) -> None:
        draft.state = state
        if not draft.is_following:
            context = [*draft.job.context, *draft.tokens]
            token = self._sessions[draft.job.session].sampler.next_token(logits, context, len(context))
            confidence = float(torch.softmax(logits.float(), 0)[token])
            draft.tokens.append(token)
            draft.confidences.append(confidence)
            draft.reach *= confidence
        draft.num_fed += 1

    def _guess(self, job: DraftJob, draft: _Draft | None) -> Guess:
        if draft is None:
            return Guess(job.session, ())
        return Guess(job.session, tuple(draft.tokens), tuple(draft.confidences))


def _load_assistant(settings: DrafterSettings, dtype: torch.dtype, max_context: int) -> LoadedModel:
    with every_layer_shared():
        return load(prepare(settings.model), dtype, max_context=max_context)


def _remember(session: _Session, frame: FeatureFrame) -> None:
    """Keep a frame's last row."""
    bits = bytearray(frame.bf16[len(frame.bf16) // frame.num_rows * (frame.num_rows - 1) :])
    session.hidden = torch.frombuffer(bits, dtype=torch.bfloat16)
    session.position = frame.start + frame.num_rows - 1
