"""Every setting of every process, with meaning, unit and the reason for its default.

Precedence: flags > ``PACELINE_*`` environment > file > default; see ``config.load``. Durations are seconds.
``docs/configuration.md`` is generated from this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What every gRPC process has."""

    listen: str = "127.0.0.1:0"
    """host:port to serve gRPC on; port 0 picks a free one."""
    metrics: str = ""
    """host:port of the Prometheus page; empty serves none."""
    reflection: bool = False
    """Serve gRPC reflection; off, because it shows the API to anyone who can connect."""
    grace_s: float = 5.0
    """Time that sessions get to end after SIGTERM before they are cut."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Larger gRPC messages are refused; a 128k-token prompt fits."""
    max_streams: int = 128
    """Concurrent gRPC streams per connection."""
    ring_spans: int = 50_000
    """Finished spans kept in memory for ``paceline trace``."""
    otlp_endpoint: str = ""
    """OTLP gRPC endpoint for spans, such as http://localhost:4317; empty exports nothing."""
    log_level: str = "info"
    """debug, info, warning or error."""
    ready_file: str = ""
    """When set, one JSON line with the bound addresses is written here once the process is ready; - is standard
    output."""


@dataclass(frozen=True, slots=True)
class SyntheticSettings:
    """The synthetic back end: a hash language model with chosen step times, for tests and experiments."""

    vocab_size: int = 32_000
    """Size of its vocabulary."""
    step_base_s: float = 0.0
    """Fixed time of a step."""
    step_row_s: float = 0.0
    """Time added per row of a step."""
    step_kv_s: float = 0.0
    """Time added per cached position that a row reads."""
    agreement: float = 0.8
    """Chance that the synthetic drafter guesses the target's token."""
    alternatives: int = 0
    """Other tokens that the synthetic drafter names per place, where a session wants any."""
    hit: float = 0.85
    """Chance that the target's token is among these where the first choice is wrong; each is half as likely as the one
    before."""
    call_base_s: float = 0.0
    """Fixed time of a call of the synthetic drafter."""
    call_token_s: float = 0.0
    """Time added per token of the longest guess of a call."""
    call_row_s: float = 0.0
    """Time added per token of every further guess of a call: drafters batch as verifiers do."""
    model_seed: int = 0
    """Two synthetic models with the same seed are the same model."""


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """The verifier process."""

    server: ServerSettings = field(default_factory=ServerSettings)
    backend: str = "torch"
    """torch or synthetic."""
    model: str = "smollm2"
    """Directory, GGUF file, hub name, or ``smollm2`` or ``gemma3`` from their packages."""
    dtype: str = "auto"
    """bfloat16, float32 or auto (bfloat16 where the processor has it)."""
    quantize: str = ""
    """int8: linear layers with weights and activations of 8 bits, on a processor; half of the memory to read, and other
    logits than those of the model's own weights. Empty for none. All verifiers of a pool must agree."""
    threads: int = 0
    """Compute threads; 0 uses all cores."""
    max_sessions: int = 16
    """KV slots."""
    max_context: int = 2048
    """Prompt + output tokens per session at most."""
    token_budget: int = 256
    """Rows of a step at most: bounds how long decoding waits for somebody's prefill."""
    prefill_chunk: int = 128
    """Prompt tokens of one session per step at most."""
    prefill_slowdown: float = 4.0
    """Where somebody decodes, prompts are read in pieces so small that a step takes at most so many times as long as
    without them, by what steps have cost so far; they get 16 rows all the same. Less is steadier text for those who
    decode, more is an earlier first token for those who come."""
    tensor_parallel: int = 1
    """Processes (ranks) that share the model, each with a part of every layer: for a target that is too large for one
    machine. All verifiers of a pool must agree."""
    rank: int = 0
    """Of this process among them. Rank 0 serves; the others are its own processes unless ``rendezvous`` is set."""
    rendezvous: str = ""
    """For ranks on several machines: tcp://host:port of rank 0, the same for all. Empty for one machine, where rank 0
    starts the others."""
    rank_timeout_s: float = 60.0
    """A rank that takes longer for its part of a step is lost, and the verifier ends."""
    resident: str = ""
    """A drafter that computes inside this process, between steps, where that pays: named as the drafter service's
    ``drafter``; empty for none. It serves as many sessions as the verifier, with its threads and dtype."""
    resident_model: str = ""
    """For a resident drafter with a model: as the drafter service's ``model``."""
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)


@dataclass(frozen=True, slots=True)
class DrafterSettings:
    """The drafter process."""

    server: ServerSettings = field(default_factory=ServerSettings)
    drafter: str = "suffix"
    """suffix, ngram, model, mtp, medusa, random, synthetic, or mix of several: ``mix:suffix,ngram`` (or
    ``mix:suffix+ngram``), or gemma_assistant."""
    parts: tuple[str, ...] = ("suffix", "ngram")
    """For ``mix`` without a colon: the drafters that it mixes; each reads its own settings from this table."""
    model: str = ""
    """For ``model``: as the verifier's; for ``mtp`` and ``medusa``: a directory that paceline train has made."""
    target: str = ""
    """For ``gemma_assistant`` outside the verifier: the target, as the verifier's ``model``; its embedding is read."""
    block: int = 0
    """For ``mtp`` and ``medusa``: tokens per call; 0 is what the drafter was trained for, which is also the most."""
    vocab_size: int = 32_000
    """For ``random``: ids are below this."""
    dtype: str = "auto"
    """As the verifier's."""
    quantize: str = "int8"
    """For ``mtp`` and ``medusa``: int8 for weights of 8 bits, empty for those that were trained. Guesses may differ,
    never the text."""
    threads: int = 1
    """Compute threads; few, because drafters often share a machine with a verifier."""
    max_sessions: int = 64
    """Sessions at once."""
    max_context: int = 2048
    """For ``model`` and ``gemma_assistant``: KV tokens per session."""
    corpus: str = ""
    """For ``suffix``: text or JSONL file to learn from at start (needs ``model`` for its tokenizer)."""
    learn: bool = False
    """For ``suffix``: learn from the outputs of finished sessions; off, since speed would tell of
    others' text."""
    least_reach: float = 0.005
    """Looking ahead, outcomes that are less likely than this are not gone on from. More saves bytes and drafting, and
    hides less of the round trip."""
    synthetic: SyntheticSettings = field(default_factory=SyntheticSettings)


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """The coordinator process."""

    server: ServerSettings = field(default_factory=lambda: ServerSettings(listen="127.0.0.1:50051"))
    verifiers: tuple[str, ...] = ()
    """Addresses of verifiers."""
    drafters: tuple[str, ...] = ()
    """Addresses of drafters; none is fine, generation is then plain."""
    verifier_link: str = ""
    """An emulated network to the verifiers, such as ``rtt=20ms,jitter=20%,bandwidth=100mbit,lost_every=60s``; empty is
    the network as it is."""
    drafter_link: str = ""
    """The same to the drafters."""
    store: str = field(default="memory:", repr=False)
    """redis://, rediss:// or unix:// URL of the session store; ``memory:`` keeps sessions in this process."""
    tokenizer: str = "smollm2"
    """Directory with tokenizer.json, or as the verifier's model."""
    max_draft: int = 16
    """Draft tokens per verifier step at most unless the request says otherwise; its profile may want fewer, and of
    these as many are checked as pay."""
    window: int = 16
    """Draft tokens pending beyond the last commit."""
    mode: str = "lookahead"
    """Who drafts for requests that don't say: plain, sync, pipeline, lookahead or colocated. Without a pool of drafters
    the middle three are the same as colocated."""
    fan_out: int = 8
    """Other tokens per place that drafters may send; in mode lookahead they go on behind these."""
    max_requests: int = 256
    """Requests at once; more are refused with RESOURCE_EXHAUSTED."""
    max_tokens: int = 256
    """Output tokens unless the request says otherwise."""
    request_timeout_s: float = 600.0
    """Deadline of requests that bring none."""
    health_interval_s: float = 1.0
    """Pause between health checks of a pool member that is down."""
    commit_credit: int = 512
    """Output tokens that a verifier may commit ahead of the client's reading."""
    verdict_log: str = ""
    """Directory of the log of drafts and what became of them, as token ids, for the training of drafters; only of
    requests that allow it. Empty keeps none."""
    verdict_log_bytes: int = 64 * 1024 * 1024
    """Size of a file of that log at most."""
    verdict_log_files: int = 8
    """Files of that log at most; the oldest go."""
