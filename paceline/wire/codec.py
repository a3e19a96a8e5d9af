"""Between ``core.types`` and protobuf, both ways, one pair per noun.

Malformed messages raise ``InvalidRequest`` naming the field; ranges are checked where the values are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from paceline.core.errors import InvalidRequest, Unsupported
from paceline.core.types import (
    Close,
    Commit,
    Credit,
    DrafterInfo,
    Drain,
    FeatureFrame,
    FinishReason,
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
    TraceContext,
    VerifierInfo,
)
from paceline.speculation.features import check_frame, check_rows
from paceline.v1 import drafter_pb2, tokens_pb2, verifier_pb2

_SAMPLERS = {
    Sampler.COUPLED: tokens_pb2.SAMPLER_COUPLED,
    Sampler.REJECTION: tokens_pb2.SAMPLER_REJECTION,
    Sampler.BLOCK: tokens_pb2.SAMPLER_BLOCK,
}
_SAMPLERS_BACK = {number: sampler for sampler, number in _SAMPLERS.items()} | {
    tokens_pb2.SAMPLER_UNSPECIFIED: Sampler.COUPLED
}
PROFILES = {
    Profile.AUTO: tokens_pb2.PROFILE_UNSPECIFIED,
    Profile.CHAT: tokens_pb2.PROFILE_CHAT,
    Profile.CODE: tokens_pb2.PROFILE_CODE,
    Profile.COPY: tokens_pb2.PROFILE_COPY,
}
PROFILES_BACK = {number: profile for profile, number in PROFILES.items()}
_PACES = {
    Pace.SYNC: tokens_pb2.PACE_SYNC,
    Pace.PIPELINE: tokens_pb2.PACE_UNSPECIFIED,
    Pace.LOOKAHEAD: tokens_pb2.PACE_LOOKAHEAD,
}
_PACES_BACK = {number: pace for pace, number in _PACES.items()}
FINISH_REASONS = {
    FinishReason.STOP: tokens_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: tokens_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: tokens_pb2.FINISH_REASON_CANCELLED,
    FinishReason.ERROR: tokens_pb2.FINISH_REASON_ERROR,
}
FINISH_REASONS_BACK = {number: reason for reason, number in FINISH_REASONS.items()}

MAX_DURATION_S = 315_576_000_000
"""Ten thousand years, protobuf's own limit."""
_NANOS = 1_000_000_000
_SOONEST_S = 1e-9

MessageT = TypeVar("MessageT", bound=Message)


class HasSession(Protocol):
    """A message about a session."""

    session_id: str


def build(kind: type[MessageT], values: Mapping[str, Any]) -> MessageT:
    """A message of what a caller gave; raises ``InvalidRequest`` naming the field whose value doesn't fit the wire."""
    try:
        return kind(**values)
    except (TypeError, ValueError):
        for name, value in values.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                raise InvalidRequest(f"{name}: {' '.join(str(error).split())}.") from error
        raise


def refuse(message: Message, *fields: str) -> None:
    """Fields that are there for later versions; to ignore them would change what the sender meant."""
    for field in fields:
        if getattr(message, field):
            raise Unsupported(f"{field}: not served by this version; leave it empty.")


def duration_to_pb(seconds: float) -> Duration:
    """Rounded to nanoseconds, within what protobuf allows."""
    whole, nanos = divmod(round(min(max(seconds, 0.0), MAX_DURATION_S) * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def duration_from_pb(message: Duration, field: str) -> float:
    """Seconds; raises ``InvalidRequest`` for what is no duration or a negative one."""
    if not (0 <= message.seconds <= MAX_DURATION_S and 0 <= message.nanos < _NANOS):
        raise InvalidRequest(f"{field}: {message.seconds} s and {message.nanos} ns are not a duration of 0 or more.")
    return (message.seconds * _NANOS + message.nanos) / _NANOS


def trace_context_to_pb(trace: TraceContext) -> tokens_pb2.TraceContext:
    """W3C ids."""
    return tokens_pb2.TraceContext(trace_id=trace.trace_id, span_id=trace.span_id)


def trace_context_from_pb(message: tokens_pb2.TraceContext) -> TraceContext:
    """Raises ``InvalidRequest`` for ids of a wrong shape."""
    for name, value, length in (("trace_id", message.trace_id, 32), ("span_id", message.span_id, 16)):
        if value and (len(value) != length or not set(value) <= set("0123456789abcdef") or set(value) == {"0"}):
            raise InvalidRequest(f"trace.{name}: need {length} lower-case hex digits, not all 0, or nothing.")
    return TraceContext(message.trace_id, message.span_id)


def sampling_params_to_pb(params: SamplingParams) -> tokens_pb2.SamplingParams:
    """Every field, defaults included; raises ``InvalidRequest`` for what the wire can't carry."""
    bias = dict(params.logit_bias)
    if len(bias) < len(params.logit_bias):
        raise InvalidRequest("logit_bias: a token is there twice; give each at most one bias.")
    return build(
        tokens_pb2.SamplingParams,
        {
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "logit_bias": bias,
            "allowed_token_ids": params.allowed_tokens,
            "banned_token_ids": params.banned_tokens,
            "seed": params.seed,
            "sampler": _SAMPLERS[params.sampler],
        },
    )


def sampling_params_from_pb(message: tokens_pb2.SamplingParams) -> SamplingParams:
    """Unset optional fields take their defaults; a sampler or grammar that is not served raises ``Unsupported``."""
    refuse(message, "grammar")
    if message.sampler not in _SAMPLERS_BACK:
        raise InvalidRequest(f"sampling.sampler: {message.sampler} is not a sampler; use SAMPLER_COUPLED.")
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        allowed_tokens=tuple(message.allowed_token_ids),
        banned_tokens=tuple(message.banned_token_ids),
        seed=message.seed,
        sampler=_SAMPLERS_BACK[message.sampler],
    )


def session_spec_to_pb(spec: SessionSpec) -> tokens_pb2.SessionSpec:
    """The whole session."""
    message = tokens_pb2.SessionSpec(
        session_id=spec.session,
        context_token_ids=spec.context,
        prompt_length=spec.prompt_length,
        sampling=sampling_params_to_pb(spec.sampling),
        stops=tokens_pb2.StopRules(max_tokens=spec.stops.max_tokens, stop_token_ids=spec.stops.stop_token_ids),
        max_draft=spec.max_draft,
        min_draft=spec.min_draft,
        profile=PROFILES[spec.profile],
        window=spec.window,
        fan_out=spec.fan_out,
        pace=_PACES[spec.pace],
        model_digest=spec.model_digest,
        numerics_id=spec.numerics_id,
        tokenizer_digest=spec.tokenizer_digest,
        trace=trace_context_to_pb(spec.trace),
        tenant=spec.tenant,
    )
    if spec.deadline_s > 0:
        message.deadline.CopyFrom(duration_to_pb(spec.deadline_s))
    return message


def session_spec_from_pb(message: tokens_pb2.SessionSpec) -> SessionSpec:
    """Raises ``InvalidRequest`` without a session id."""
    return SessionSpec(
        session=session_id(message),
        context=tuple(message.context_token_ids),
        prompt_length=message.prompt_length,
        sampling=sampling_params_from_pb(message.sampling),
        stops=StopRules(message.stops.max_tokens, tuple(message.stops.stop_token_ids)),
        max_draft=message.max_draft,
        min_draft=message.min_draft,
        profile=PROFILES_BACK.get(message.profile, Profile.AUTO),
        window=message.window,
        fan_out=message.fan_out,
        pace=_PACES_BACK.get(message.pace, Pace.PIPELINE),
        model_digest=message.model_digest,
        numerics_id=message.numerics_id,
        tokenizer_digest=message.tokenizer_digest,
        trace=trace_context_from_pb(message.trace),
        tenant=message.tenant,
        deadline_s=_deadline(message),
    )


def _deadline(message: tokens_pb2.SessionSpec) -> float:
    """0 is no limit for us, but no time left on the wire."""
    return max(duration_from_pb(message.deadline, "deadline"), _SOONEST_S) if message.HasField("deadline") else 0.0


def session_id(message: HasSession) -> str:
    """Whose message it is; raises ``InvalidRequest`` where that is not said."""
    session = message.session_id
    if not 1 <= len(session) <= 64:
        raise InvalidRequest(f"session_id: need 1 to 64 characters, got {len(session)}.")
    return session


def commit_to_pb(commit: Commit) -> tokens_pb2.Commit:
    """Final tokens."""
    timings = commit.timings
    message = tokens_pb2.Commit(
        session_id=commit.session,
        start=commit.start,
        token_ids=commit.token_ids,
        drafted=commit.drafted,
        accepted=commit.accepted,
        timings=tokens_pb2.StepTimings(
            queue=duration_to_pb(timings.queue_s),
            forward=duration_to_pb(timings.forward_s),
            sample=duration_to_pb(timings.sample_s),
            started_unix_ns=timings.started_ns,
        ),
    )
    if commit.finish is not None:
        message.finish = FINISH_REASONS[commit.finish]
    if commit.features is not None:
        message.features.CopyFrom(_rows_to_pb(commit.features))
    return message


def commit_from_pb(message: tokens_pb2.Commit) -> Commit:
    """An unknown finish reason, or hidden states of a wrong size or place, raise ``InvalidRequest``."""
    refuse(message, "logprobs")
    finish = None
    if message.finish:
        if message.finish not in FINISH_REASONS_BACK:
            raise InvalidRequest(f"finish: {message.finish} is not a finish reason this version knows; update it.")
        finish = FINISH_REASONS_BACK[message.finish]
    timings = message.timings
    return Commit(
        session=session_id(message),
        start=message.start,
        token_ids=tuple(message.token_ids),
        drafted=message.drafted,
        accepted=message.accepted,
        finish=finish,
        timings=StepTimings(
            duration_from_pb(timings.queue, "timings.queue"),
            duration_from_pb(timings.forward, "timings.forward"),
            duration_from_pb(timings.sample, "timings.sample"),
            timings.started_unix_ns,
        ),
        features=_features(message),
    )


def _features(message: tokens_pb2.Commit) -> FeatureFrame | None:
    if not message.HasField("features"):
        return None
    frame = _rows(message.features)
    check_frame(frame, message.start + len(message.token_ids))
    return frame


def _rows_to_pb(frame: FeatureFrame) -> tokens_pb2.FeatureFrame:
    return tokens_pb2.FeatureFrame(start=frame.start, num_rows=frame.num_rows, bf16=frame.bf16)


def _rows(message: tokens_pb2.FeatureFrame) -> FeatureFrame:
    return FeatureFrame(message.start, message.num_rows, message.bf16)


def kv_frame_to_pb(frame: KvFrame) -> tokens_pb2.KvFrame:
    """Keys and values."""
    return tokens_pb2.KvFrame(session_id=frame.session, kind=frame.kind, rows=_rows_to_pb(frame.rows))


def kv_frame_from_pb(message: tokens_pb2.KvFrame) -> KvFrame:
    """Rows of a wrong size raise ``InvalidRequest``; whether they are of this target is the drafter's to say."""
    frame = KvFrame(session_id(message), message.kind, _rows(message.rows))
    check_rows(frame.rows, "kv.rows")
    return frame


def _shapes_to_pb(shapes: Iterable[KvShape]) -> list[tokens_pb2.KvShape]:
    return [
        tokens_pb2.KvShape(kind=shape.kind, num_heads=shape.num_heads, head_size=shape.head_size, history=shape.history)
        for shape in shapes
    ]


def _shapes(messages: Iterable[tokens_pb2.KvShape]) -> tuple[KvShape, ...]:
    return tuple(KvShape(one.kind, one.num_heads, one.head_size, one.history) for one in messages)


def tap_to_pb(tap: Tap) -> tokens_pb2.Tap:
    """Hidden states, keys and values that are wanted."""
    return tokens_pb2.Tap(session_id=tap.session, taps=tap.taps, history=tap.history, kv=_shapes_to_pb(tap.kv))


def tap_from_pb(message: tokens_pb2.Tap) -> Tap:
    """The inverse; whether there are such layers is the verifier's to say."""
    return Tap(session_id(message), tuple(message.taps), message.history, _shapes(message.kv))


def credit_to_pb(credit: Credit) -> tokens_pb2.Credit:
    """How far to go."""
    return tokens_pb2.Credit(session_id=credit.session, until=credit.until)


def credit_from_pb(message: tokens_pb2.Credit) -> Credit:
    """The inverse."""
    return Credit(session_id(message), message.until)


def refused_to_pb(refused: Refused) -> tokens_pb2.Refused:
    """A session that is not served."""
    return tokens_pb2.Refused(
        session_id=refused.session, code=refused.code, message=refused.message, retryable=refused.retryable
    )


def refused_from_pb(message: tokens_pb2.Refused) -> Refused:
    """The inverse."""
    return Refused(session_id(message), message.code, message.message, message.retryable)


def drain_to_pb(drain: Drain) -> tokens_pb2.Drain:
    """No new sessions."""
    return tokens_pb2.Drain(reason=drain.reason)


def drain_from_pb(message: tokens_pb2.Drain) -> Drain:
    """The inverse."""
    return Drain(message.reason)


def close_to_pb(close: Close) -> tokens_pb2.Close:
    """The end of a session."""
    return tokens_pb2.Close(session_id=close.session)


def close_from_pb(message: tokens_pb2.Close) -> Close:
    """The inverse."""
    return Close(session_id(message))


def drafter_info_to_pb(info: DrafterInfo) -> drafter_pb2.DescribeDrafterResponse:
    """What a drafter is."""
    return drafter_pb2.DescribeDrafterResponse(
        name=info.name,
        model_digest=info.model_digest,
        tokenizer_digest=info.tokenizer_digest,
        vocab_size=info.vocab_size,
        needs_hidden_states=info.needs.hidden_states,
        needs_same_tokenizer=info.needs.same_tokenizer,
        max_sessions=info.max_sessions,
        max_window=info.max_window,
        jobs_per_session=info.jobs_per_session,
        needs_history=info.needs.history,
        needs_hidden_size=info.needs.hidden_size,
        needs_are_optional=info.needs.is_optional,
        needs_target_digest=info.needs.target_digest,
        weights_bytes=info.weights_bytes,
        state_bytes=info.state_bytes,
        needs_kv=_shapes_to_pb(info.needs.kv),
    )


def drafter_info_from_pb(message: drafter_pb2.DescribeDrafterResponse) -> DrafterInfo:
    """The inverse."""
    return DrafterInfo(
        name=message.name,
        model_digest=message.model_digest,
        tokenizer_digest=message.tokenizer_digest,
        vocab_size=message.vocab_size,
        needs=Needs(
            hidden_states=tuple(message.needs_hidden_states),
            history=message.needs_history,
            same_tokenizer=message.needs_same_tokenizer,
            hidden_size=message.needs_hidden_size,
            is_optional=message.needs_are_optional,
            target_digest=message.needs_target_digest,
            kv=_shapes(message.needs_kv),
        ),
        max_sessions=message.max_sessions,
        max_window=message.max_window,
        jobs_per_session=max(1, message.jobs_per_session),
        weights_bytes=message.weights_bytes,
        state_bytes=message.state_bytes,
    )


def verifier_info_to_pb(info: VerifierInfo) -> verifier_pb2.DescribeVerifierResponse:
    """What a verifier is."""
    return verifier_pb2.DescribeVerifierResponse(
        name=info.name,
        model_digest=info.model_digest,
        tokenizer_digest=info.tokenizer_digest,
        numerics_id=info.numerics_id,
        vocab_size=info.vocab_size,
        max_context=info.max_context,
        max_sessions=info.max_sessions,
        stop_token_ids=info.stop_token_ids,
        exact=info.exact,
        device=info.device,
        dtype=info.dtype,
        num_layers=info.num_layers,
        hidden_size=info.hidden_size,
        resident=None if info.resident is None else drafter_info_to_pb(info.resident),
        kv=_shapes_to_pb(info.kv),
    )


def verifier_info_from_pb(message: verifier_pb2.DescribeVerifierResponse) -> VerifierInfo:
    """The inverse."""
    return VerifierInfo(
        name=message.name,
        model_digest=message.model_digest,
        tokenizer_digest=message.tokenizer_digest,
        numerics_id=message.numerics_id,
        vocab_size=message.vocab_size,
        max_context=message.max_context,
        max_sessions=message.max_sessions,
        stop_token_ids=tuple(message.stop_token_ids),
        exact=message.exact,
        device=message.device,
        dtype=message.dtype,
        num_layers=message.num_layers,
        hidden_size=message.hidden_size,
        resident=drafter_info_from_pb(message.resident) if message.HasField("resident") else None,
        kv=_shapes(message.kv),
    )
