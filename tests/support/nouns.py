"""Hypothesis strategies for everything that crosses the wire: defaults, extremes, empty and long."""

from __future__ import annotations

from hypothesis import strategies as st

from paceline.core.requests import (
    Chat,
    ChatMessage,
    Chunk,
    CoordinatorInfo,
    DraftMode,
    Finished,
    GenerateRequest,
    PoolMember,
    SpeculativeMetrics,
    Started,
    Usage,
)
from paceline.core.types import (
    Branch,
    Close,
    Commit,
    Credit,
    Draft,
    DrafterInfo,
    Drain,
    FeatureFrame,
    FinishReason,
    Graft,
    KvFrame,
    KvShape,
    Needs,
    Pace,
    Profile,
    Refused,
    Sampler,
    SamplingParams,
    SessionSpec,
    StepTimings,
    StopRules,
    Tap,
    Tokens,
    TraceContext,
    VerifierInfo,
)
from paceline.telemetry.spans import SpanRecord
from paceline.wire.drafts import CHANCES

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
floats = st.floats(allow_nan=False)
confidence = st.sampled_from(CHANCES[1:])
"""Travels in a byte."""
seconds = st.integers(0, 2**50).map(lambda nanos: nanos / 1e9)
"""Whole nanoseconds, up to thirteen days."""
text = st.text(max_size=12)
tokens = st.lists(u32, max_size=6).map(tuple)
context = tokens | st.integers(0, 2**32 - 1).map(lambda token: (token,) * 3000)
session = st.text(min_size=1, max_size=64)


def hexadecimal(length: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**length - 1).map(lambda number: f"{number:0{length}x}")


trace = st.builds(TraceContext, st.just("") | hexadecimal(32), st.just("") | hexadecimal(16))
sampling = st.builds(
    SamplingParams,
    temperature=floats,
    top_k=u32,
    top_p=floats,
    min_p=floats,
    repetition_penalty=floats,
    presence_penalty=floats,
    frequency_penalty=floats,
    logit_bias=st.dictionaries(u32, floats, max_size=4).map(lambda bias: tuple(sorted(bias.items()))),
    allowed_tokens=tokens,
    banned_tokens=tokens,
    seed=u64,
    sampler=st.sampled_from(Sampler),
)
spec = st.builds(
    SessionSpec,
    session=session,
    context=context,
    prompt_length=u32,
    sampling=st.just(SamplingParams()) | sampling,
    stops=st.builds(StopRules, u32, tokens),
    max_draft=u32,
    min_draft=u32,
    profile=st.sampled_from(Profile),
    window=u32,
    fan_out=u32,
    pace=st.sampled_from(Pace),
    model_digest=text,
    numerics_id=text,
    tokenizer_digest=text,
    trace=trace,
    tenant=text,
    deadline_s=seconds,
)


@st.composite
def guesses(draw: st.DrawFn) -> tuple[Tokens, tuple[float, ...]]:
    """Tokens, with a confidence each or without any."""
    found = draw(tokens)
    return found, tuple(draw(confidence) for _ in found) if draw(st.booleans()) else ()


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """With branches that begin at its base or later."""
    base = draw(st.integers(0, 2**31))
    branches = draw(st.lists(st.tuples(u32, st.integers(0, 2**31), guesses()), max_size=3))
    grafts = draw(st.lists(st.tuples(st.integers(0, 2**16 - 1), guesses()), max_size=3))
    return Draft(
        draw(session),
        base,
        *draw(guesses()),
        branches=tuple(Branch(parent, base + offset, *guess) for parent, offset, guess in branches),
        grafts=tuple(Graft(after, *guess) for after, guess in grafts),
    )


draft = drafts()


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """Its hidden states, if any, are of positions below its last token."""
    start, token_ids = draw(u32), draw(context)
    rows = draw(st.lists(st.binary(min_size=6, max_size=6), max_size=4))
    end = min(start + len(token_ids) - 1, 2**32 - 1)
    first = end - len(rows)
    frame = FeatureFrame(first, len(rows), b"".join(rows)) if rows and first >= 0 else None
    return draw(
        st.builds(
            Commit,
            session,
            start=st.just(start),
            token_ids=st.just(token_ids),
            drafted=u32,
            accepted=u32,
            finish=st.none() | st.sampled_from(FinishReason),
            timings=st.builds(StepTimings, seconds, seconds, seconds, u64),
            features=st.just(frame),
        )
    )


commit = commits()
kv_shapes = st.lists(st.builds(KvShape, text, u32, u32, u32), max_size=3).map(tuple)
rows = st.builds(
    lambda start, rows: FeatureFrame(start, len(rows), b"".join(rows)),
    u32,
    st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=4),
)
kv_frame = st.builds(KvFrame, session, text, rows)
tap = st.builds(Tap, session, st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4).map(tuple), u32, kv_shapes)
credit = st.builds(Credit, session, u32)
refused = st.builds(Refused, session, text, text, st.booleans())
drain = st.builds(Drain, text)
close = st.builds(Close, session)
drafter_info = st.builds(
    DrafterInfo,
    name=text,
    model_digest=text,
    tokenizer_digest=text,
    vocab_size=u32,
    needs=st.builds(
        Needs,
        hidden_states=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4).map(tuple),
        history=u32,
        same_tokenizer=st.booleans(),
        hidden_size=u32,
        is_optional=st.booleans(),
        target_digest=st.text(max_size=8),
        kv=kv_shapes,
    ),
    max_sessions=u32,
    max_window=u32,
    jobs_per_session=st.integers(1, 2**32 - 1),
    weights_bytes=u64,
    state_bytes=u64,
)
verifier_info = st.builds(
    VerifierInfo,
    name=text,
    model_digest=text,
    tokenizer_digest=text,
    numerics_id=text,
    vocab_size=u32,
    max_context=u32,
    max_sessions=u32,
    stop_token_ids=tokens,
    exact=st.booleans(),
    device=text,
    dtype=text,
    num_layers=u32,
    hidden_size=u32,
    resident=st.none() | drafter_info,
    kv=kv_shapes,
)

chat = st.lists(st.builds(ChatMessage, text, text), max_size=3).map(lambda turns: Chat(tuple(turns)))


@st.composite
def generate_requests(draw: st.DrawFn) -> GenerateRequest:
    """Its sampling parameters have the request's own seed, as they have after the wire."""
    seed = draw(st.none() | u64)
    law = draw(st.builds(SamplingParams, temperature=floats, top_k=u32, seed=st.just(seed or 0)))
    return draw(
        st.builds(
            GenerateRequest,
            prompt=text | context | chat,
            request_id=text,
            sampling=st.just(law),
            seed=st.just(seed),
            max_tokens=st.none() | u32,
            stop=st.lists(text, max_size=3).map(tuple),
            stop_token_ids=tokens,
            ignore_eos=st.booleans(),
            mode=st.none() | st.sampled_from(DraftMode),
            max_draft=st.none() | u32,
            min_draft=u32,
            profile=st.sampled_from(Profile),
            allow_learning=st.booleans(),
            tenant=text,
            trace=trace,
        )
    )


started = st.builds(
    Started, request_id=text, session=text, prompt_tokens=u32, seed=u64, numerics_id=text, trace_id=text
)
chunk = st.builds(Chunk, start=u32, token_ids=tokens, text=text)
finished = st.builds(
    Finished,
    reason=st.sampled_from(FinishReason),
    usage=st.builds(Usage, u32, u32),
    speculative=st.builds(
        SpeculativeMetrics,
        mean_acceptance_length=floats,
        draft_acceptance_rate=floats,
        acceptance_histogram=tokens,
        num_spec_steps=u32,
        num_accepted_draft_tokens=u32,
        num_draft_tokens=u32,
        num_spec_tokens=u32,
        num_steps=u32,
    ),
    first_token_s=seconds,
    total_s=seconds,
)
event = started | chunk | finished
member = st.builds(
    PoolMember,
    address=text,
    healthy=st.booleans(),
    detail=text,
    info=st.none() | drafter_info | verifier_info,
    sessions=u32,
)
coordinator_info = st.builds(
    CoordinatorInfo,
    version=text,
    drafters=st.lists(member, max_size=2).map(tuple),
    verifiers=st.lists(member, max_size=2).map(tuple),
    store=text,
    has_chat_template=st.booleans(),
    metrics=text,
)
span = st.builds(
    SpanRecord,
    trace_id=text,
    span_id=text,
    parent_id=text,
    name=text,
    service=text,
    start_ns=u64,
    end_ns=u64,
    attributes=st.dictionaries(text, text, max_size=3),
)
