"""The one table: every span, attribute and instrument of the system. Docs and dashboards are tested against it.

Instruments keep vLLM's names under our prefix where vLLM has them, so that existing dashboards need one replacement.
"""

from __future__ import annotations

from dataclasses import dataclass


class Span:
    """Names of spans, children indented below their parents."""

    REQUEST = "request"
    TOKENIZE = "request.tokenize"
    CREATE = "request.create"
    STEP = "verify.step"
    QUEUE = "verify.queue"
    RESIDENT = "verify.draft"
    FORWARD = "verify.forward"
    SAMPLE = "verify.sample"
    WIRE = "wire"
    STORE = "store.commit"
    DRAFT = "draft"


class Attribute:
    """Names of span attributes."""

    REQUEST_ID = "paceline.request_id"
    SESSION = "paceline.session"
    POSITION = "paceline.position"
    TOKENS = "paceline.tokens"
    DRAFTED = "paceline.drafted"
    ACCEPTED = "paceline.accepted"
    FINISH = "paceline.finish"


SPANS = {
    Span.REQUEST: "One request at the coordinator, from arrival to its last event.",
    Span.TOKENIZE: "Chat template and tokenizer.",
    Span.CREATE: "The session is written to the store.",
    Span.STEP: "One verifier step of this session, seen from the verifier.",
    Span.QUEUE: "Between the cause of the step and its start.",
    Span.RESIDENT: "The resident drafter guesses; part of the queue.",
    Span.FORWARD: "The forward pass, shared by all sessions of the step.",
    Span.SAMPLE: "Processors, noise and acceptance.",
    Span.WIRE: "From the end of the step to its commit at the coordinator.",
    Span.STORE: "Compare-and-set of the committed tokens.",
    Span.DRAFT: "The drafter guesses ahead.",
}


@dataclass(frozen=True, slots=True)
class Instrument:
    """A Prometheus instrument; ``kind`` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_STEP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_REQUEST_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metric:
    """Every instrument."""

    STEP_SECONDS = Instrument("paceline_step_seconds", "histogram", "Time of a verifier step.", buckets=_STEP_S)
    STEP_ROWS = Instrument("paceline_step_rows", "histogram", "Rows of a verifier step.", buckets=_ROWS)
    SESSIONS = Instrument("paceline_num_requests_running", "gauge", "Sessions that are open here.")
    WAIT_SECONDS = Instrument("paceline_draft_wait_seconds", "counter", "Time that the verifier waited for drafts.")
    GENERATION_TOKENS = Instrument("paceline_generation_tokens", "counter", "Tokens committed.")
    PREFILL_TOKENS = Instrument("paceline_prompt_tokens", "counter", "Prompt tokens run through the model.")
    DRAFTS = Instrument("paceline_spec_decode_num_drafts", "counter", "Steps with draft tokens.")
    DRAFT_TOKENS = Instrument("paceline_spec_decode_num_draft_tokens", "counter", "Draft tokens checked.")
    ACCEPTED_TOKENS = Instrument("paceline_spec_decode_num_accepted_tokens", "counter", "Draft tokens accepted.")
    ACCEPTED_PER_POS = Instrument(
        "paceline_spec_decode_num_accepted_tokens_per_pos", "counter", "Draft tokens accepted by place.", ("position",)
    )
    DRAFTS_RECEIVED = Instrument("paceline_drafts_received", "counter", "Draft messages.", ("result",))
    DRAFT_SECONDS = Instrument("paceline_draft_seconds", "histogram", "Time of a drafting call.", buckets=_STEP_S)
    DRAFTED_TOKENS = Instrument("paceline_drafted_tokens", "counter", "Tokens guessed.")
    DRAFTER_WEIGHTS = Instrument("paceline_drafter_weights_bytes", "gauge", "Memory of the drafter's weights.")
    DRAFTER_STATE = Instrument("paceline_drafter_state_bytes", "gauge", "Memory of its sessions, at its last guess.")
    RELOADS = Instrument("paceline_reloads", "counter", "Times that weights were loaded anew.", ("result",))
    FEATURE_BYTES = Instrument("paceline_feature_bytes", "counter", "Bytes of hidden states, sent or received.")
    KV_BYTES = Instrument("paceline_kv_bytes", "counter", "Bytes of keys and values, sent or received.")
    REQUESTS = Instrument("paceline_request_success", "counter", "Requests by how they ended.", ("finished_reason",))
    REQUEST_SECONDS = Instrument(
        "paceline_e2e_request_latency_seconds", "histogram", "Time of a request.", buckets=_REQUEST_S
    )
    FIRST_TOKEN_SECONDS = Instrument(
        "paceline_time_to_first_token_seconds", "histogram", "Time to the first token.", buckets=_REQUEST_S
    )
    FALLBACKS = Instrument("paceline_fallbacks", "counter", "Losses that a request survived.", ("cause",))
    VERDICTS = Instrument("paceline_verdicts", "counter", "Verdicts for the log, by what became of them.", ("result",))


INSTRUMENTS = tuple(value for value in vars(Metric).values() if isinstance(value, Instrument))
