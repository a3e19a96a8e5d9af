"""Hugging Face's Gemma 4 assistants: small networks that read the target's own keys, values and last hidden state.

They have no cache and no prefill. Every guess looks at the target's committed positions from the place of the newest
token; what came between is carried from token to token in one vector. So they live in the verifier's process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.ports import TargetState
from paceline.core.types import DrafterInfo, DraftJob, FeatureFrame, Guess, Needs, SessionSpec
from paceline.drafters.gemma_network import GemmaNetwork, Row, every_layer_shared
from paceline.models.footprint import tensor_bytes
from paceline.models.loading import load, prepare
from paceline.models.rows import LAST
from paceline.models.sampling import RowSampler
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
    """``core.ports.Drafter`` in the process of its target; batched over sessions."""

    def __init__(
        self, network: GemmaNetwork, target: TargetView, max_sessions: int, *, min_reach: float = MIN_REACH
    ) -> None:
        self._network = network
        self._target = target
        self._min_reach = min_reach
        self._sessions: dict[str, _Session] = {}
        self.info = DrafterInfo(
            name=f"gemma_assistant {network.name}",
            model_digest=network.digest,
            tokenizer_digest=target.tokenizer_digest,
            vocab_size=target.vocab_size,
            needs=Needs(hidden_states=(LAST,), history=1, hidden_size=target.hidden_size, kv=True),
            max_sessions=max_sessions,
            weights_bytes=network.weights_bytes,
        )

    @classmethod
    def load(cls, settings: DrafterSettings, target: TargetState | None) -> GemmaAssistantDrafter:
        """Raises ``InvalidRequest`` without a target's state and for an assistant that was made for another one."""
        if not settings.model:
            raise InvalidRequest("model: gemma_assistant needs one; set it to the target's assistant.")
        if not isinstance(target, TargetView):
            raise InvalidRequest(
                "drafter: gemma_assistant reads its target's keys and values; run it in the verifier's process, with "
                "the torch back end."
            )
        with every_layer_shared():
            loaded = load(prepare(settings.model), target.dtype, max_context=target.max_context)
        return cls(GemmaNetwork(loaded, target), target, settings.max_sessions)

    def open(self, spec: SessionSpec) -> None:
        """Its keys and values are the target's: nothing to prepare."""
        validate(spec.sampling, self.info.vocab_size)
        self._sessions[spec.session] = _Session(RowSampler(spec.sampling, spec.prompt_length))

    def close(self, session: str) -> None:
        """Forget its last hidden state."""
        self._sessions.pop(session, None)

    def state_bytes(self) -> int:
        """The newest hidden state per session: keys and values are the target's."""
        return sum(tensor_bytes(one.hidden) for one in self._sessions.values())

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        """Token by token, all sessions in one pass each; empty where the target's state is of another position."""
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


def _remember(session: _Session, frame: FeatureFrame) -> None:
    """Keep a frame's last row."""
    bits = bytearray(frame.bf16[len(frame.bf16) // frame.num_rows * (frame.num_rows - 1) :])
    session.hidden = torch.frombuffer(bits, dtype=torch.bfloat16)
    session.position = frame.start + frame.num_rows - 1
