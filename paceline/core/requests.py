"""The nouns between a client and the coordinator, frozen: a request, the events that answer it, the pools behind it.

Started comes first, then any number of Chunks, then Finished; a request that fails raises a ``PacelineError`` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from paceline.core.types import DrafterInfo, FinishReason, Profile, SamplingParams, Tokens, TraceContext, VerifierInfo


class DraftMode(StrEnum):
    """Who drafts, and when: nobody; drafters of the pool, and the verifier's own if it has one; or only that one."""

    PLAIN = "plain"
    SYNC = "sync"
    """One block per round trip, for comparison."""
    PIPELINE = "pipeline"
    """Ahead on the likeliest path."""
    LOOKAHEAD = "lookahead"
    """The same, and behind likely other outcomes too."""
    COLOCATED = "colocated"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered by the model's chat template."""

    messages: tuple[ChatMessage, ...]


Prompt = str | Tokens | Chat
"""Raw text tokenized as it is, token ids, or a conversation."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What to generate. Values out of range are refused, never clamped."""

    prompt: Prompt
    request_id: str = ""
    """Chosen by the client to cancel or trace it; minted when empty; at most 64 of [A-Za-z0-9._-]."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    """The law of its tokens; its ``seed`` is replaced by the one below."""
    seed: int | None = None
    """64-bit key of the noise; None lets the coordinator draw one from the system's secure source."""
    max_tokens: int | None = None
    """Output tokens at most; None is the service's default."""
    stop: tuple[str, ...] = ()
    """The output ends before the first of these strings; at most 16."""
    stop_token_ids: Tokens = ()
    """Extra ids that end the output."""
    ignore_eos: bool = False
    """Do not stop at the model's end-of-sequence ids."""
    mode: DraftMode | None = None
    """Who drafts, and when; None is the service's ``mode``."""
    max_draft: int | None = None
    """Draft tokens per verifier step at most; None is the profile's, or the service's where that is less."""
    min_draft: int = 0
    """Draft tokens to check whenever they are there, whether that pays or not: with ``max_draft`` a fixed block, for
    measurements; at most ``max_draft``."""
    profile: Profile = Profile.AUTO
    """What the text is like, for the first draft lengths; the text itself never depends on it."""
    allow_learning: bool = False
    """Its token ids may be logged for the training of drafters, where the operator keeps such a log."""
    tenant: str = ""
    """On whose behalf: tenants get equal shares of a busy verifier and share no state; at most 64 of [A-Za-z0-9._-].
    Requests without one belong together."""
    trace: TraceContext = field(default_factory=TraceContext)
    """Joins the caller's trace."""
    deadline_s: float = 0.0
    """Seconds that the caller waits; 0 leaves it to the service. Travels as the deadline of the call."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request was accepted; always the first event."""

    request_id: str
    session: str
    prompt_tokens: int
    seed: int
    numerics_id: str
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that became final."""

    start: int
    """Output index of the first token."""
    token_ids: Tokens
    text: str
    """What these tokens complete; partial characters and possible stop strings wait for a later chunk."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class SpeculativeMetrics:
    """Counters of speculation for one request, in vLLM's shape."""

    mean_acceptance_length: float = 0.0
    """Tokens per verifier step with drafts, the target's own token included."""
    draft_acceptance_rate: float = 0.0
    """Accepted over checked draft tokens."""
    acceptance_histogram: tuple[int, ...] = ()
    """Entry i: steps with drafts in which exactly i draft tokens were accepted."""
    num_spec_steps: int = 0
    num_accepted_draft_tokens: int = 0
    num_draft_tokens: int = 0
    num_spec_tokens: int = 0
    """Draft tokens per step at most, as asked for."""
    num_steps: int = 0
    """All verifier steps that committed tokens, with and without drafts."""
    num_feature_bytes: int = 0
    """Of hidden states, keys and values that the verifier sent for a drafter elsewhere; a resident one reads them."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Always the last event of a successful request."""

    reason: FinishReason
    usage: Usage
    speculative: SpeculativeMetrics
    first_token_s: float
    """From arrival to the first token."""
    total_s: float
    """From arrival to the end."""


GenerateEvent = Started | Chunk | Finished


@dataclass(frozen=True, slots=True)
class PoolMember:
    """A verifier or drafter as the coordinator sees it."""

    address: str
    healthy: bool
    """Serving and compatible."""
    detail: str = ""
    """Why not, when it isn't."""
    info: VerifierInfo | DrafterInfo | None = None
    """Its last answer to Describe; None before the first."""
    sessions: int = 0
    """Sessions of this coordinator on it."""


@dataclass(frozen=True, slots=True)
class CoordinatorInfo:
    """The coordinator's view of the system."""

    version: str
    drafters: tuple[PoolMember, ...] = ()
    verifiers: tuple[PoolMember, ...] = ()
    store: str = ""
    """Session store, without credentials."""
    has_chat_template: bool = False
    metrics: str = ""
    """Address of the metrics page, empty when off."""
