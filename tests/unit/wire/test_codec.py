"""Every noun survives the wire unchanged, no field is silently ignored, and what is malformed is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import nouns

from paceline.core.errors import InvalidRequest, PacelineError, Unsupported
from paceline.core.types import Profile, Sampler, SamplingParams, SessionSpec, StopRules
from paceline.speculation.features import MAX_FRAME_BYTES
from paceline.v1 import coordinator_pb2 as pb
from paceline.v1 import diagnostics_pb2, drafter_pb2, tokens_pb2, verifier_pb2
from paceline.wire import codec, coordinator_codec, diagnostics, drafts

ToPb = Callable[[Any], Message]
FromPb = Callable[[Any], Any]

PAIRS: dict[str, tuple[st.SearchStrategy[Any], ToPb, FromPb]] = {
    "trace context": (nouns.trace, codec.trace_context_to_pb, codec.trace_context_from_pb),
    "sampling": (nouns.sampling, codec.sampling_params_to_pb, codec.sampling_params_from_pb),
    "session": (nouns.spec, codec.session_spec_to_pb, codec.session_spec_from_pb),
    "draft": (nouns.draft, drafts.draft_to_pb, drafts.draft_from_pb),
    "commit": (nouns.commit, codec.commit_to_pb, codec.commit_from_pb),
    "keys and values": (nouns.kv_frame, codec.kv_frame_to_pb, codec.kv_frame_from_pb),
    "tap": (nouns.tap, codec.tap_to_pb, codec.tap_from_pb),
    "credit": (nouns.credit, codec.credit_to_pb, codec.credit_from_pb),
    "refusal": (nouns.refused, codec.refused_to_pb, codec.refused_from_pb),
    "drain": (nouns.drain, codec.drain_to_pb, codec.drain_from_pb),
    "close": (nouns.close, codec.close_to_pb, codec.close_from_pb),
    "drafter": (nouns.drafter_info, codec.drafter_info_to_pb, codec.drafter_info_from_pb),
    "verifier": (nouns.verifier_info, codec.verifier_info_to_pb, codec.verifier_info_from_pb),
    "request": (
        nouns.generate_requests(),
        coordinator_codec.generate_request_to_pb,
        coordinator_codec.generate_request_from_pb,
    ),
    "event": (nouns.event, coordinator_codec.event_to_pb, coordinator_codec.event_from_pb),
    "coordinator": (nouns.coordinator_info, coordinator_codec.describe_to_pb, coordinator_codec.describe_from_pb),
    "span": (nouns.span, diagnostics.span_to_pb, diagnostics.span_from_pb),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_noun_survives_the_wire(pair: tuple[st.SearchStrategy[Any], ToPb, FromPb], data: st.DataObject) -> None:
    strategy, to_pb, from_pb = pair
    noun = data.draw(strategy)
    message = to_pb(noun)
    received = type(message).FromString(message.SerializeToString())
    assert from_pb(received) == noun
    assert to_pb(from_pb(received)) == message


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_message_is_no_message_or_another_noun_or_refused_in_our_own_words(
    pair: tuple[st.SearchStrategy[Any], ToPb, FromPb], data: st.DataObject
) -> None:
    strategy, to_pb, from_pb = pair
    message = to_pb(data.draw(strategy))
    damaged = bytearray(message.SerializeToString())
    for place in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=3)):
        damaged[place : place + 1] = data.draw(st.binary(max_size=2))
    try:
        received = type(message).FromString(bytes(damaged))
    except DecodeError:
        return
    try:
        noun = from_pb(received)
    except PacelineError as error:
        assert error.code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")  # noqa: PT017
    else:
        once = to_pb(noun)  # compared as bytes: a damaged number may be NaN, which equals nothing
        again = to_pb(from_pb(once))
        assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


SPEC = tokens_pb2.SessionSpec(session_id="s")
MESSAGES: dict[str, tuple[Message, FromPb]] = {
    "SamplingParams": (tokens_pb2.SamplingParams(), codec.sampling_params_from_pb),
    "SessionSpec": (SPEC, codec.session_spec_from_pb),
    "Draft": (tokens_pb2.Draft(session_id="s"), drafts.draft_from_pb),
    "Commit": (tokens_pb2.Commit(session_id="s"), codec.commit_from_pb),
    "Tap": (tokens_pb2.Tap(session_id="s"), codec.tap_from_pb),
    "KvFrame": (
        tokens_pb2.KvFrame(session_id="s", rows=tokens_pb2.FeatureFrame(num_rows=1, bf16=b"12")),
        codec.kv_frame_from_pb,
    ),
    "Credit": (tokens_pb2.Credit(session_id="s"), codec.credit_from_pb),
    "Refused": (tokens_pb2.Refused(session_id="s"), codec.refused_from_pb),
    "Drain": (tokens_pb2.Drain(), codec.drain_from_pb),
    "Close": (tokens_pb2.Close(session_id="s"), codec.close_from_pb),
    "DescribeDrafterResponse": (drafter_pb2.DescribeDrafterResponse(), codec.drafter_info_from_pb),
    "DescribeVerifierResponse": (verifier_pb2.DescribeVerifierResponse(), codec.verifier_info_from_pb),
    "GenerateRequest": (pb.GenerateRequest(text="x"), coordinator_codec.generate_request_from_pb),
    "Started": (pb.Started(), lambda message: coordinator_codec.event_from_pb(pb.GenerateResponse(started=message))),
    "Chunk": (pb.Chunk(), lambda message: coordinator_codec.event_from_pb(pb.GenerateResponse(chunk=message))),
    "Finished": (
        pb.Finished(finish_reason=tokens_pb2.FINISH_REASON_STOP),
        lambda message: coordinator_codec.event_from_pb(pb.GenerateResponse(finished=message)),
    ),
    "DescribeResponse": (pb.DescribeResponse(), coordinator_codec.describe_from_pb),
    "Span": (diagnostics_pb2.Span(), diagnostics.span_from_pb),
}


def leaves(message: Message, parents: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field that a sender can set, nested ones by their path."""
    paths: list[tuple[str, ...]] = []
    for field in message.DESCRIPTOR.fields:
        nested = field.message_type
        if nested is None or nested.GetOptions().map_entry or nested.full_name == "google.protobuf.Duration":
            paths.append((*parents, field.name))
        elif isinstance(value := getattr(message, field.name), Message):
            paths += leaves(value, (*parents, field.name))
        else:
            paths += leaves(value.add(), (*parents, field.name))
    return paths


EXAMPLES: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: "3",
    FieldDescriptor.TYPE_BYTES: b"3",
    FieldDescriptor.TYPE_BOOL: True,
}
BY_NAME: dict[str, Any] = {
    "trace_id": "3" * 32,
    "span_id": "3" * 16,
    "mode": pb.DRAFT_MODE_PLAIN,
    "pace": tokens_pb2.PACE_SYNC,
}


def example(field: FieldDescriptor) -> Any:
    """A value that is not the default, and valid by itself."""
    return EXAMPLES.get(field.type, 2)


def put(message: Any, path: tuple[str, ...]) -> None:
    """Give the field of this path an example."""
    for name in path[:-1]:
        value = getattr(message, name)
        message = value if isinstance(value, Message) else value.add()
    field, value = message.DESCRIPTOR.fields_by_name[path[-1]], getattr(message, path[-1])
    if isinstance(value, Duration):
        value.nanos = 1
    elif field.message_type is not None:  # a map
        key, element = field.message_type.fields
        value[example(key)] = example(element)
    elif hasattr(value, "append"):
        value.append(example(field))
    else:
        setattr(message, field.name, BY_NAME.get(field.name, example(field)))


OF_THE_STREAM = ("SessionSpec", ("alias",))
"""Read by ``wire.frames``: what a session is called, not what it is."""
FIELDS = [
    (name, path)
    for name, (message, _) in MESSAGES.items()
    for path in leaves(type(message)())
    if (name, path) != OF_THE_STREAM
]


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=[".".join((name, *path)) for name, path in FIELDS])
def test_no_field_is_silently_ignored(name: str, path: tuple[str, ...]) -> None:
    plain, from_pb = MESSAGES[name]
    changed = type(plain)()
    changed.CopyFrom(plain)
    put(changed, path)
    assert changed != plain
    try:
        understood = from_pb(changed)
    except PacelineError as error:
        assert path[-1] in str(error) or path[0] in str(error)  # noqa: PT017
    else:
        assert understood != from_pb(plain)


def test_unset_parameters_take_their_defaults() -> None:
    assert codec.sampling_params_from_pb(tokens_pb2.SamplingParams()) == SamplingParams()
    session = codec.session_spec_from_pb(SPEC)
    assert session == SessionSpec("s", (), 0, SamplingParams(), StopRules(0), max_draft=0, window=0, fan_out=0)


@pytest.mark.parametrize(
    ("seconds", "whole", "nanos"),
    [
        (0.0, 0, 0),
        (0.3, 0, 300_000_000),
        (1.0000000004, 1, 0),
        (1.0000000006, 1, 1),
        (0.9999999996, 1, 0),
        (2.5e-9, 0, 2),
        (1e300, codec.MAX_DURATION_S, 0),
        (-1.0, 0, 0),
    ],
)
def test_durations_round_to_nanoseconds_within_what_protobuf_allows(seconds: float, whole: int, nanos: int) -> None:
    assert codec.duration_to_pb(seconds) == Duration(seconds=whole, nanos=nanos)


@given(st.integers(0, 2**50))
def test_whole_nanoseconds_come_back_exactly(nanos: int) -> None:
    assert codec.duration_from_pb(codec.duration_to_pb(nanos / 1e9), "x") == nanos / 1e9


@pytest.mark.parametrize("seconds", [1e-9, 1e-12, 5e-324])
def test_a_deadline_that_is_nearly_over_stays_a_deadline(seconds: float) -> None:
    spec = SessionSpec("s", (1,), 1, SamplingParams(), StopRules(1), deadline_s=seconds)
    assert codec.session_spec_from_pb(codec.session_spec_to_pb(spec)).deadline_s == 1e-9


def test_no_time_left_is_not_the_same_as_no_deadline() -> None:
    over = tokens_pb2.SessionSpec(session_id="s", deadline=Duration())
    assert codec.session_spec_from_pb(over).deadline_s == 1e-9
    assert codec.session_spec_from_pb(SPEC).deadline_s == 0.0


def finished(reason: int) -> pb.GenerateResponse:
    message = pb.GenerateResponse(finished=pb.Finished())
    message.finished.finish_reason = reason  # type: ignore[assignment]  # enums of proto3 are open
    return message


MALFORMED: dict[str, tuple[Message, FromPb]] = {
    r"session_id: .* got 0": (tokens_pb2.SessionSpec(), codec.session_spec_from_pb),
    r"session_id: .* got 65": (tokens_pb2.Draft(session_id="x" * 65), drafts.draft_from_pb),
    r"session_id: .* got 66": (tokens_pb2.Commit(session_id="x" * 66), codec.commit_from_pb),
    r"session_id: .* got 67": (tokens_pb2.Credit(session_id="x" * 67), codec.credit_from_pb),
    r"session_id: .* got 68": (tokens_pb2.Refused(session_id="x" * 68), codec.refused_from_pb),
    r"session_id: .* got 69": (tokens_pb2.Close(session_id="x" * 69), codec.close_from_pb),
    r"sampling\.sampler: 9 is not": (tokens_pb2.SamplingParams(sampler=9), codec.sampling_params_from_pb),  # type: ignore[arg-type]
    r"finish: 9 is not": (tokens_pb2.Commit(session_id="s", finish=9), codec.commit_from_pb),  # type: ignore[arg-type]
    r"deadline: -1 s": (
        tokens_pb2.SessionSpec(session_id="s", deadline=Duration(seconds=-1)),
        codec.session_spec_from_pb,
    ),
    r"deadline: 315576000001 s": (
        tokens_pb2.SessionSpec(session_id="s", deadline=Duration(seconds=315_576_000_001)),
        codec.session_spec_from_pb,
    ),
    r"timings\.queue: .* -1 ns": (
        tokens_pb2.Commit(session_id="s", timings=tokens_pb2.StepTimings(queue=Duration(nanos=-1))),
        codec.commit_from_pb,
    ),
    r"timings\.forward: .* 1000000000 ns": (
        tokens_pb2.Commit(session_id="s", timings=tokens_pb2.StepTimings(forward=Duration(nanos=10**9))),
        codec.commit_from_pb,
    ),
    r"timings\.sample: -5 s": (
        tokens_pb2.Commit(session_id="s", timings=tokens_pb2.StepTimings(sample=Duration(seconds=-5))),
        codec.commit_from_pb,
    ),
    r"confidences: 1 bytes for 2 tokens": (
        tokens_pb2.Draft(session_id="s", token_ids=[1, 2], confidences=b"x"),
        drafts.draft_from_pb,
    ),
    r"branches\.parents: 1 entries .* make 2": (
        tokens_pb2.Draft(session_id="s", branches=tokens_pb2.Branches(parents=[1], offsets=[0, 1])),
        drafts.draft_from_pb,
    ),
    r"branches\.lengths: 1 entries .* make 2": (
        tokens_pb2.Draft(session_id="s", branches=tokens_pb2.Branches(lengths=[1], offsets=[0, 1])),
        drafts.draft_from_pb,
    ),
    r"grafts\.after: 3 bytes": (
        tokens_pb2.Draft(session_id="s", grafts=tokens_pb2.Grafts(after=b"123")),
        drafts.draft_from_pb,
    ),
    r"grafts\.token_ids: 3 entries .* make 5": (
        tokens_pb2.Draft(session_id="s", grafts=tokens_pb2.Grafts(after=b"1234", lengths=[2, 3], token_ids=[1, 2, 3])),
        drafts.draft_from_pb,
    ),
    r"mode: 9 is not": (pb.GenerateRequest(text="x", mode=9), coordinator_codec.generate_request_from_pb),  # type: ignore[arg-type]
    r"input: the request has none": (pb.GenerateRequest(), coordinator_codec.generate_request_from_pb),
    r"kind: the response holds no event": (pb.GenerateResponse(), coordinator_codec.event_from_pb),
    r"finish_reason: 0 is unknown": (finished(0), coordinator_codec.event_from_pb),
    r"finish_reason: 9 is unknown": (finished(9), coordinator_codec.event_from_pb),
}


@pytest.mark.parametrize("match", MALFORMED)
def test_a_malformed_message_is_refused_by_the_name_of_its_field(match: str) -> None:
    message, from_pb = MALFORMED[match]
    with pytest.raises(InvalidRequest, match=match):
        from_pb(message)


@pytest.mark.parametrize("trace_id", ["3" * 31, "3" * 33, "G" * 32, "A" * 32, "0" * 32, " " * 32])
def test_a_trace_id_is_32_lower_case_hex_digits_or_nothing(trace_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"trace\.trace_id: need 32"):
        codec.trace_context_from_pb(tokens_pb2.TraceContext(trace_id=trace_id))


@pytest.mark.parametrize("span_id", ["3" * 15, "3" * 17, "x" * 16, "0" * 16])
def test_a_span_id_is_16_lower_case_hex_digits_or_nothing(span_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"trace\.span_id: need 16"):
        codec.trace_context_from_pb(tokens_pb2.TraceContext(trace_id="3" * 32, span_id=span_id))


RESERVED: dict[str, tuple[Message, FromPb]] = {
    "grammar": (tokens_pb2.SamplingParams(grammar="root ::= x"), codec.sampling_params_from_pb),
    "distributions": (
        tokens_pb2.Draft(session_id="s", distributions=[tokens_pb2.SparseDistribution()]),
        drafts.draft_from_pb,
    ),
    "logprobs": (tokens_pb2.Commit(session_id="s", logprobs=[tokens_pb2.TokenLogprobs()]), codec.commit_from_pb),
}


@pytest.mark.parametrize("field", RESERVED)
def test_what_later_versions_will_serve_is_refused_by_name_today(field: str) -> None:
    message, from_pb = RESERVED[field]
    with pytest.raises(Unsupported, match=f"{field}: not served"):
        from_pb(message)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (tokens_pb2.FeatureFrame(), "a frame has at least one row"),
        (tokens_pb2.FeatureFrame(num_rows=2), "0 bytes are not 2 rows"),
        (tokens_pb2.FeatureFrame(num_rows=2, bf16=bytes(6)), "6 bytes are not 2 rows"),
        (tokens_pb2.FeatureFrame(num_rows=2**32 - 1, bf16=bytes(6)), "6 bytes are not 4294967295 rows"),
        (tokens_pb2.FeatureFrame(num_rows=1, bf16=bytes(MAX_FRAME_BYTES + 2)), "more than 2097152; send fewer rows"),
        (tokens_pb2.FeatureFrame(start=8, num_rows=2, bf16=bytes(4)), "up to position 9, but the newest .* at 9"),
        (tokens_pb2.FeatureFrame(start=2**32 - 1, num_rows=1, bf16=bytes(4)), "up to position 4294967295, but"),
    ],
)
def test_hidden_states_of_a_wrong_size_or_place_are_refused(frame: tokens_pb2.FeatureFrame, reason: str) -> None:
    """Position 9 is the newest committed token's: its row is computed by the next step only."""
    message = tokens_pb2.Commit(session_id="s", start=7, token_ids=(1, 2, 3), features=frame)
    with pytest.raises(InvalidRequest, match=f"features: .*{reason}"):
        codec.commit_from_pb(message)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (None, "a frame has at least one row"),
        (tokens_pb2.FeatureFrame(num_rows=3, bf16=bytes(8)), "8 bytes are not 3 rows"),
        (tokens_pb2.FeatureFrame(num_rows=2**32 - 1, bf16=bytes(8)), "8 bytes are not 4294967295 rows"),
        (tokens_pb2.FeatureFrame(num_rows=1, bf16=bytes(MAX_FRAME_BYTES + 2)), "more than 2097152; send fewer rows"),
    ],
)
def test_keys_and_values_of_a_wrong_size_are_refused(frame: tokens_pb2.FeatureFrame | None, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"kv\.rows: .*{reason}"):
        codec.kv_frame_from_pb(tokens_pb2.KvFrame(session_id="s", kind="full_attention", rows=frame))


def test_an_unspecified_sampler_is_coupled() -> None:
    unset = tokens_pb2.SamplingParams(sampler=tokens_pb2.SAMPLER_UNSPECIFIED)
    assert codec.sampling_params_from_pb(unset).sampler is Sampler.COUPLED


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("top_k", {"top_k": -1}),
        ("top_k", {"top_k": 2**32}),
        ("seed", {"seed": 2**64}),
        ("temperature", {"temperature": "warm"}),
        ("allowed_token_ids", {"allowed_tokens": (-1,)}),
        ("banned_token_ids", {"banned_tokens": (2**32,)}),
        ("logit_bias", {"logit_bias": ((-1, 0.5),)}),
        ("logit_bias", {"logit_bias": ((7, 0.5), (7, 1.5))}),
    ],
)
def test_parameters_that_the_wire_cannot_carry_are_refused_by_name(field: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        codec.sampling_params_to_pb(SamplingParams(**params))


def test_a_profile_of_a_newer_coordinator_counts_as_none() -> None:
    """It shapes only the speed."""
    message = codec.session_spec_to_pb(SessionSpec("s", (1,), 1, SamplingParams(), StopRules(3), profile=Profile.COPY))
    message.profile = 77
    assert codec.session_spec_from_pb(message).profile is Profile.AUTO
