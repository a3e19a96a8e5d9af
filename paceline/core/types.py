"""The nouns of the system, frozen: what travels between rooms is never changed by the one it was lent to.

Everything is addressed by *position*: the index of a token in prompt + output. A draft says "if the first
``base`` tokens are the committed ones, the next are these"; a commit says "from ``start`` on, these are the tokens".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Tokens = tuple[int, ...]


class Sampler(StrEnum):
    """How a session turns target logits into tokens; see ``sampling``."""

    COUPLED = "coupled"
    REJECTION = "rejection"
    BLOCK = "block"


class Profile(StrEnum):
    """What a request is for: how many drafts are worth checking before anything was seen. It never changes the text."""

    AUTO = "auto"
    """Neutral; what is seen decides within few tokens."""
    CHAT = "chat"
    """Free text, in which drafts are often wrong soon."""
    CODE = "code"
    """Programs and other text with set forms."""
    COPY = "copy"
    """Text that largely repeats its prompt: edits, extracts, quotations."""


class Pace(StrEnum):
    """When a drafter goes on. It never changes the text."""

    SYNC = "sync"
    """One block, then its verdict, then the next one."""
    PIPELINE = "pipeline"
    """Ahead on the likeliest path, without waiting for verdicts."""
    LOOKAHEAD = "lookahead"
    """The same, and behind likely other outcomes too."""


class FinishReason(StrEnum):
    """Why a session ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What shapes the law of a token. Out-of-range values are refused by ``sampling.processors.validate``."""

    temperature: float = 0.0
    """0 is greedy; ties go to the lowest id."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose mass reaches this."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output (CTRL, 2019)."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens seen in the output."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence in the output."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens."""
    allowed_tokens: Tokens = ()
    """Only these tokens may appear; empty allows all."""
    banned_tokens: Tokens = ()
    """These tokens may not appear."""
    seed: int = 0
    """64-bit key of the noise; the output is a pure function of (model, context, parameters, seed)."""
    sampler: Sampler = Sampler.COUPLED


@dataclass(frozen=True, slots=True)
class StopRules:
    """What ends a session at the verifier. Stop strings live in the coordinator."""

    max_tokens: int
    """Output tokens at most, >= 1."""
    stop_token_ids: Tokens = ()
    """The session ends with the first of these that is committed; it is committed too."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context of the request (https://www.w3.org/TR/trace-context/): hex ids, empty when not traced."""

    trace_id: str = ""
    span_id: str = ""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """All that a drafter or a verifier must know to open a session at any point of its life."""

    session: str
    context: Tokens
    """Prompt and every token committed so far (more than the prompt after a failover)."""
    prompt_length: int
    """Positions below this are prompt."""
    sampling: SamplingParams
    stops: StopRules
    max_draft: int = 8
    """Draft tokens per verifier step at most, alternatives among them; 0 decodes plainly."""
    min_draft: int = 0
    """Draft tokens to check whenever they are there, whether that pays or not; at most ``max_draft``."""
    profile: Profile = Profile.AUTO
    """What to expect of drafts at first."""
    window: int = 16
    """Draft tokens that may be pending beyond the last commit."""
    fan_out: int = 3
    """Alternatives per position that the drafter may send as branches."""
    pace: Pace = Pace.PIPELINE
    """When the drafter goes on."""
    model_digest: str = ""
    """Refuse the session when set and different from the served model's."""
    numerics_id: str = ""
    """Refuse the session when set and different from the verifier's."""
    tokenizer_digest: str = ""
    """Refuse the session when both sides have one and they differ."""
    trace: TraceContext = field(default_factory=TraceContext)
    tenant: str = ""
    """On whose behalf; never told to drafters elsewhere. Sessions without one belong together."""
    deadline_s: float = 0.0
    """Seconds left for the request when the message was made; 0 means none."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Another continuation inside a draft."""

    parent: int
    """0 is the draft's main path, i > 0 is ``branches[i - 1]`` (always an earlier one)."""
    position: int
    """Position of ``token_ids[0]``; the parent's tokens before it are shared."""
    token_ids: Tokens
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Graft:
    """More for a place that an earlier draft told of; dropped where the receiver doesn't know that place."""

    after: int
    """The place: ``speculation.draft_tree.key_of`` the tokens between the draft's base and ``token_ids[0]``."""
    token_ids: Tokens
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A guess that stands on committed tokens: idempotent, may be late, doubled, reordered or lost."""

    session: str
    base: int
    """Number of committed tokens that the guess stands on = position of ``token_ids[0]``."""
    token_ids: Tokens
    confidences: tuple[float, ...] = ()
    """Estimated chance that each token is right given those before; empty or as long as ``token_ids``."""
    branches: tuple[Branch, ...] = ()
    grafts: tuple[Graft, ...] = ()
    """What is new where the path and branches of earlier drafts end or fork."""


@dataclass(frozen=True, slots=True)
class StepTimings:
    """Where a verifier step spent its time, in seconds."""

    queue_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    started_ns: int = 0
    """Unix time at which the step started, nanoseconds."""


@dataclass(frozen=True, slots=True)
class FeatureFrame:
    """The target's hidden states at consecutive committed positions, for drafters that need them."""

    start: int
    """Position of the first row."""
    num_rows: int
    bf16: bytes = field(repr=False)
    """Row-major bfloat16, little-endian, [num_rows, len(taps) * hidden], in the order of ``Needs.hidden_states``."""

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self.start + self.num_rows

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return len(self.bf16) // self.num_rows


@dataclass(frozen=True, slots=True)
class KvShape:
    """Keys and values of one layer of the target: the last one of its kind that makes its own."""

    kind: str
    """What the layer attends to, in the words of the model's configuration, such as ``full_attention``."""
    num_heads: int
    head_size: int
    history: int = 0
    """Of a need: positions that are looked at, the latest ones; 0 is all."""

    @property
    def row_bytes(self) -> int:
        """Of one position in bfloat16: keys of all heads, then values."""
        return 2 * self.num_heads * self.head_size * 2


@dataclass(frozen=True, slots=True)
class KvFrame:
    """The target's keys and values at consecutive committed positions, for drafters that need them."""

    session: str
    kind: str
    """As ``KvShape.kind``."""
    rows: FeatureFrame
    """[num_rows, keys and values * heads * head size]"""


@dataclass(frozen=True, slots=True)
class Tap:
    """Asks a verifier for hidden states, keys and values of a session's committed positions; empty ends it."""

    session: str
    taps: tuple[int, ...] = ()
    """As ``Needs.hidden_states``: commits bring them."""
    history: int = 1
    """Rows that the first frame may go back, as far as the verifier still has them; at least one is sent."""
    kv: tuple[KvShape, ...] = ()
    """As ``Needs.kv``: frames of their own bring them, all there are first and then what is new."""

    @property
    def is_empty(self) -> bool:
        """Nothing is wanted."""
        return not self.taps and not self.kv


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that are final. Commits of a session are contiguous."""

    session: str
    start: int
    token_ids: Tokens
    drafted: int = 0
    """Draft tokens that were checked in this step, alternatives among them."""
    accepted: int = 0
    """How many of them were right and are in ``token_ids``."""
    finish: FinishReason | None = None
    timings: StepTimings = field(default_factory=StepTimings)
    features: FeatureFrame | None = None
    """After a ``Tap``: rows that were not sent yet; the last one is of the token before the newest, whose own hidden
    state only the next step computes."""


@dataclass(frozen=True, slots=True)
class Credit:
    """How far the other side may go: no draft or commit at or beyond this position."""

    session: str
    until: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A session was not opened or had to be ended; the stream itself lives on."""

    session: str
    code: str
    """gRPC status name, as in ``core.errors``."""
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """The sender takes no new sessions and ends after its present ones."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends a session at the receiver."""

    session: str


VerifierCommand = SessionSpec | Draft | Close | Credit | Tap
"""What a coordinator says to a verifier."""
VerifierEvent = Commit | KvFrame | Credit | Refused | Drain
"""What a verifier answers. Frames come before the commit whose drafts they are for."""
DrafterCommand = SessionSpec | Commit | KvFrame | Close | Credit
"""What a coordinator says to a drafter."""
DrafterEvent = Draft | Refused | Drain
"""What a drafter answers."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a drafter wants of the target beyond token ids. Data, never an ``if`` on a drafter's name."""

    hidden_states: tuple[int, ...] = ()
    """Taps: after this many layers; -1 is the normalised output of the last one."""
    history: int = 0
    """Positions before the newest one whose hidden states are of use; older ones need not be sent."""
    same_tokenizer: bool = False
    hidden_size: int = 0
    """Width of the target's hidden states; 0 is any."""
    is_optional: bool = False
    """It guesses from token ids alone where the target gives no hidden states."""
    target_digest: str = ""
    """The only model that it was made for, as ``VerifierInfo.model_digest``; empty is any."""
    kv: tuple[KvShape, ...] = ()
    """The target's keys and values; in the verifier's process they are read in place (``core.ports.TargetState``)."""

    @property
    def feature_bytes(self) -> int:
        """Of the hidden states at one position in bfloat16; 0 where none are needed, or their width is not known."""
        return len(self.hidden_states) * self.hidden_size * 2


@dataclass(frozen=True, slots=True)
class DrafterInfo:
    """A drafter's answer to Describe."""

    name: str
    model_digest: str = ""
    tokenizer_digest: str = ""
    """Empty: works on ids of any tokenizer."""
    vocab_size: int = 0
    """0: any."""
    needs: Needs = field(default_factory=Needs)
    max_sessions: int = 256
    max_window: int = 64
    jobs_per_session: int = 1
    """Contexts of one session that it continues in one call."""
    weights_bytes: int = 0
    """Memory of its weights, or of a corpus; none without."""
    state_bytes: int = 0
    """Memory of its sessions, the most that there was so far; whoever serves the drafter fills it in."""


@dataclass(frozen=True, slots=True)
class VerifierInfo:
    """A verifier's answer to Describe."""

    name: str
    model_digest: str
    tokenizer_digest: str
    numerics_id: str
    vocab_size: int
    max_context: int
    """Prompt + output tokens at most."""
    max_sessions: int
    stop_token_ids: Tokens = ()
    """End-of-sequence ids of the model."""
    exact: bool = True
    """The invariance probe held: logits do not depend on how rows are grouped."""
    device: str = "cpu"
    dtype: str = ""
    num_layers: int = 0
    """Taps lie between 1 and below this, or are -1."""
    hidden_size: int = 0
    """Width of its hidden states; 0: it gives none."""
    resident: DrafterInfo | None = None
    """The drafter in its process, if there is one and it was not switched off."""
    kv: tuple[KvShape, ...] = ()
    """Keys and values that it gives, one per kind of layer; none where it can't."""


@dataclass(frozen=True, slots=True)
class KvWish:
    """Keys and values of the committed positions from ``start`` on, as a step leaves them."""

    kind: str
    """As ``KvShape.kind``."""
    start: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that a step checks beside a draft token: another one for the same place."""

    index: int
    """Of the draft token, from 0."""
    token: int


@dataclass(frozen=True, slots=True)
class StepItem:
    """One session's share of a verifier step: the rows to run."""

    session: str
    start: int
    """Position of ``tokens[0]``; the KV cache is truncated to this length first."""
    tokens: Tokens
    """Committed tokens whose KV is missing, then the draft path."""
    num_draft: int = 0
    """How many of the last tokens are drafts."""
    alternatives: tuple[Alternative, ...] = ()
    """Each has a row that sees the drafts before its place, and that no other row sees; none is there twice."""
    sample: bool = True
    """False for a prefill chunk that ends before the last committed token: nothing is sampled."""
    taps: tuple[Tap, ...] = ()
    """Who wants hidden states of the rows that turn out to be committed, each its own layers and its own last rows."""
    kv: tuple[KvWish, ...] = ()
    """Keys and values wanted of what is cached once the step has ended."""

    @property
    def num_committed(self) -> int:
        """Rows that are committed tokens."""
        return len(self.tokens) - self.num_draft

    @property
    def num_checked(self) -> int:
        """Rows that are guesses."""
        return self.num_draft + len(self.alternatives)

    @property
    def num_rows(self) -> int:
        """All of them."""
        return len(self.tokens) + len(self.alternatives)


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the target made of a ``StepItem``."""

    session: str
    token_ids: Tokens
    """Accepted drafts and then the target's own token; empty when nothing was sampled."""
    accepted: int = 0
    """The last of the accepted may be an alternative: behind it comes the target's own token, and no draft. Keys and
    values of all accepted tokens are cached."""
    features: tuple[FeatureFrame, ...] = ()
    """One per tap of the item: committed rows and accepted drafts, never a rejected one."""
    kv: tuple[KvFrame, ...] = ()
    """What the item wished, in frames that fit a message, in order; of the same rows as ``features`` at most."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Outcomes in the order of the items, and the time that the whole step took."""

    outcomes: tuple[StepOutcome, ...]
    forward_s: float = 0.0
    sample_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DraftJob:
    """Ask a drafter to continue a context."""

    session: str
    context: Tokens
    """Committed tokens and then the path guessed so far; ``context[:committed]`` is certain."""
    committed: int
    max_tokens: int
    features: tuple[FeatureFrame, ...] = ()
    """Frames that came since the session's last job, oldest first; positions below ``committed`` only."""
    kv: tuple[KvFrame, ...] = ()
    """The same for keys and values: at most one frame per kind; one that doesn't follow the last one begins anew."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A drafter's continuation of a ``DraftJob.context``; may be empty."""

    session: str
    token_ids: Tokens
    confidences: tuple[float, ...] = ()
    branches: tuple[Branch, ...] = ()
    """Where it may go on otherwise: each leaves ``token_ids`` (parent 0) at a position from the context's end on."""
