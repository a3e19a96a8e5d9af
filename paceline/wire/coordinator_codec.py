"""Between ``core.requests`` and the coordinator's protobuf messages, both ways.

Called by the coordinator's servicer and by clients; malformed messages raise ``InvalidRequest`` naming the field.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from paceline.core.errors import InvalidRequest
from paceline.core.requests import (
    Chat,
    ChatMessage,
    Chunk,
    CoordinatorInfo,
    DraftMode,
    Finished,
    GenerateEvent,
    GenerateRequest,
    PoolMember,
    Prompt,
    SpeculativeMetrics,
    Started,
    Usage,
)
from paceline.core.types import DrafterInfo, VerifierInfo
from paceline.v1 import coordinator_pb2 as pb
from paceline.wire import codec

_MODES = {
    None: pb.DRAFT_MODE_UNSPECIFIED,
    DraftMode.PLAIN: pb.DRAFT_MODE_PLAIN,
    DraftMode.SYNC: pb.DRAFT_MODE_SYNC,
    DraftMode.PIPELINE: pb.DRAFT_MODE_PIPELINE,
    DraftMode.LOOKAHEAD: pb.DRAFT_MODE_LOOKAHEAD,
    DraftMode.COLOCATED: pb.DRAFT_MODE_COLOCATED,
}
_MODES_BACK = {number: mode for mode, number in _MODES.items()}


def generate_request_to_pb(request: GenerateRequest) -> pb.GenerateRequest:
    """Everything but ``deadline_s``, which travels as the deadline of the call. Raises ``InvalidRequest``."""
    sampling = replace(request.sampling, seed=request.seed or 0)
    values = {
        "request_id": request.request_id,
        "sampling": codec.sampling_params_to_pb(sampling),
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": request.ignore_eos,
        "mode": _MODES[request.mode],
        "max_draft": request.max_draft,
        "min_draft": request.min_draft,
        "profile": codec.PROFILES[request.profile],
        "allow_learning": request.allow_learning,
        "tenant": request.tenant,
        "trace": codec.trace_context_to_pb(request.trace),
    }
    message = codec.build(pb.GenerateRequest, values | _input(request.prompt))
    if request.seed is None:
        message.sampling.ClearField("seed")
    return message


def _input(prompt: Prompt) -> dict[str, object]:
    if isinstance(prompt, str):
        return {"text": prompt}
    if isinstance(prompt, Chat):
        turns = [codec.build(pb.ChatMessage, asdict(turn)) for turn in prompt.messages]
        return {"chat": pb.ChatMessages(messages=turns)}
    return {"tokens": codec.build(pb.TokenIds, {"token_ids": prompt})}


def generate_request_from_pb(message: pb.GenerateRequest, deadline_s: float = 0.0) -> GenerateRequest:
    """``deadline_s`` is what is left of the call's time; 0 means none. A newer client's parameters are refused."""
    _refuse_unknown(message)
    if message.mode not in _MODES_BACK:
        raise InvalidRequest(f"mode: {message.mode} is not a draft mode; use DRAFT_MODE_LOOKAHEAD or DRAFT_MODE_PLAIN.")
    if message.profile not in codec.PROFILES_BACK:
        raise InvalidRequest(f"profile: {message.profile} is not a profile; use PROFILE_CHAT, _CODE or _COPY, or none.")
    sampling = codec.sampling_params_from_pb(message.sampling)
    return GenerateRequest(
        prompt=_take_prompt(message),
        request_id=message.request_id,
        sampling=sampling,
        seed=message.sampling.seed if message.sampling.HasField("seed") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        mode=_MODES_BACK[message.mode],
        max_draft=message.max_draft if message.HasField("max_draft") else None,
        min_draft=message.min_draft,
        profile=codec.PROFILES_BACK[message.profile],
        allow_learning=message.allow_learning,
        tenant=message.tenant,
        trace=codec.trace_context_from_pb(message.trace),
        deadline_s=deadline_s,
    )


def _refuse_unknown(message: Message) -> None:
    """To ignore a parameter would give its sender another text than it asked for."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise InvalidRequest(
            f"{message.DESCRIPTOR.name}: field {unknown[0].field_number} is unknown to this version; "
            "update the coordinator, or leave the field out."
        )
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in (value,) if isinstance(value, Message) else value:
                _refuse_unknown(part)


def _take_prompt(message: pb.GenerateRequest) -> Prompt:
    match message.WhichOneof("input"):
        case "text":
            return message.text
        case "tokens":
            return tuple(message.tokens.token_ids)
        case "chat":
            return Chat(tuple(ChatMessage(turn.role, turn.content) for turn in message.chat.messages))
        case _:
            raise InvalidRequest("input: the request has none; set one of text, tokens or chat.")


def event_to_pb(event: GenerateEvent) -> pb.GenerateResponse:
    """One event of a generation."""
    if isinstance(event, Chunk):
        chunk = pb.Chunk(start=event.start, token_ids=event.token_ids, text=event.text)
        return pb.GenerateResponse(chunk=chunk)
    if isinstance(event, Started):
        return pb.GenerateResponse(started=_started_to_pb(event))
    return pb.GenerateResponse(finished=_finished_to_pb(event))


def event_from_pb(message: pb.GenerateResponse) -> GenerateEvent:
    """The inverse of ``event_to_pb``."""
    match message.WhichOneof("kind"):
        case "chunk":
            return Chunk(message.chunk.start, tuple(message.chunk.token_ids), message.chunk.text)
        case "started":
            return _started_from_pb(message.started)
        case "finished":
            return _finished_from_pb(message.finished)
        case _:
            raise InvalidRequest("kind: the response holds no event this version knows; update the client.")


def _started_to_pb(event: Started) -> pb.Started:
    return pb.Started(
        request_id=event.request_id,
        session_id=event.session,
        prompt_tokens=event.prompt_tokens,
        seed=event.seed,
        numerics_id=event.numerics_id,
        trace_id=event.trace_id,
    )


def _started_from_pb(message: pb.Started) -> Started:
    return Started(
        request_id=message.request_id,
        session=message.session_id,
        prompt_tokens=message.prompt_tokens,
        seed=message.seed,
        numerics_id=message.numerics_id,
        trace_id=message.trace_id,
    )


def _finished_to_pb(event: Finished) -> pb.Finished:
    fields = asdict(event.speculative)
    return pb.Finished(
        finish_reason=codec.FINISH_REASONS[event.reason],
        usage=pb.Usage(
            prompt_tokens=event.usage.prompt_tokens,
            completion_tokens=event.usage.completion_tokens,
        ),
        metrics=pb.RequestMetrics(speculative_decoding=pb.SpeculativeDecoding(**fields)),
        first_token=codec.duration_to_pb(event.first_token_s),
        total=codec.duration_to_pb(event.total_s),
    )


def _finished_from_pb(message: pb.Finished) -> Finished:
    if message.finish_reason not in codec.FINISH_REASONS_BACK:
        raise InvalidRequest(f"finish_reason: {message.finish_reason} is unknown to this version; update the client.")
    return Finished(
        reason=codec.FINISH_REASONS_BACK[message.finish_reason],
        usage=Usage(message.usage.prompt_tokens, message.usage.completion_tokens),
        speculative=_speculative_from_pb(message.metrics.speculative_decoding),
        first_token_s=codec.duration_from_pb(message.first_token, "first_token"),
        total_s=codec.duration_from_pb(message.total, "total"),
    )


def _speculative_from_pb(message: pb.SpeculativeDecoding) -> SpeculativeMetrics:
    return SpeculativeMetrics(
        mean_acceptance_length=message.mean_acceptance_length,
        draft_acceptance_rate=message.draft_acceptance_rate,
        acceptance_histogram=tuple(message.acceptance_histogram),
        num_spec_steps=message.num_spec_steps,
        num_accepted_draft_tokens=message.num_accepted_draft_tokens,
        num_draft_tokens=message.num_draft_tokens,
        num_spec_tokens=message.num_spec_tokens,
        num_steps=message.num_steps,
        num_feature_bytes=message.num_feature_bytes,
    )


def describe_to_pb(info: CoordinatorInfo) -> pb.DescribeResponse:
    """The coordinator's answer to Describe."""
    return pb.DescribeResponse(
        version=info.version,
        drafters=[_member_to_pb(member) for member in info.drafters],
        verifiers=[_member_to_pb(member) for member in info.verifiers],
        store=info.store,
        has_chat_template=info.has_chat_template,
        metrics=info.metrics,
    )


def describe_from_pb(message: pb.DescribeResponse) -> CoordinatorInfo:
    """The inverse of ``describe_to_pb``."""
    return CoordinatorInfo(
        version=message.version,
        drafters=tuple(_member_from_pb(member) for member in message.drafters),
        verifiers=tuple(_member_from_pb(member) for member in message.verifiers),
        store=message.store,
        has_chat_template=message.has_chat_template,
        metrics=message.metrics,
    )


def _member_to_pb(member: PoolMember) -> pb.PoolMember:
    message = pb.PoolMember(
        address=member.address, healthy=member.healthy, detail=member.detail, sessions=member.sessions
    )
    if isinstance(member.info, DrafterInfo):
        message.drafter.CopyFrom(codec.drafter_info_to_pb(member.info))
    elif isinstance(member.info, VerifierInfo):
        message.verifier.CopyFrom(codec.verifier_info_to_pb(member.info))
    return message


def _member_from_pb(message: pb.PoolMember) -> PoolMember:
    info: DrafterInfo | VerifierInfo | None = None
    if message.HasField("drafter"):
        info = codec.drafter_info_from_pb(message.drafter)
    elif message.HasField("verifier"):
        info = codec.verifier_info_from_pb(message.verifier)
    return PoolMember(message.address, message.healthy, message.detail, info, message.sessions)
