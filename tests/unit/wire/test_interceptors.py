"""Whatever a client sends and whatever a handler does, a client gets a status that helps, and nobody else notices."""

from __future__ import annotations

import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.parrot import KINDS, Caller, failure, says

MALFORMED = {
    "an endless varint": b"\xff" * 11,
    "a wire type that does not exist": b"\x0f",
    "a text longer than the message": b"\x0a\x7fabc",
    "a text that is not UTF-8": b"\x0a\x02\xff\xfe",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_good_call_passes_unchanged(caller: Caller, kind: str) -> None:
    assert await caller.call(kind, says("hello")) == ["hello"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_tree_becomes_its_status_with_its_remedy(caller: Caller, kind: str) -> None:
    error = await failure(caller.call(kind, says("refuse")))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "No cracker here; bring one.")


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_error_is_logged_and_its_text_stays_here(
    caller: Caller, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure(caller.call(kind, says("crash")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error)
    assert "log" in str(error.details())
    assert [(one.levelname, one.name) for one in caplog.records] == [("ERROR", "paceline.wire.interceptors")]
    assert "secret" in caplog.text


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_an_invalid_argument_and_one_warning(
    caller: Caller, kind: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    error = await failure(caller.call(kind, data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == (
        f"A message to /test.Parrot/{kind} is not a protobuf of its type; check the client's version of it."
    )
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "malformed message")
    assert record.exc_info is None
    assert vars(record)["method"] == f"/test.Parrot/{kind}"
    assert await caller.call(kind, says("still here")) == ["still here"]


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_message_in_mid_stream_ends_that_stream_only(
    caller: Caller, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = caller.stream(), caller.stream()
    for stream in (bad, good):
        await stream.write(says("before"))
        assert (await stream.read()).spans[0].name == "before"
    await bad.write(data)
    error = await failure(bad.read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    await good.write(says("after"))
    assert (await good.read()).spans[0].name == "after"
    await good.done_writing()
    assert await good.read() is grpc.aio.EOF


async def test_what_came_before_a_malformed_message_was_answered(caller: Caller) -> None:
    stream = caller.stream()
    for message in (says("one"), says("two"), b"\x0f"):
        await stream.write(message)
    assert [(await stream.read()).spans[0].name for _ in range(2)] == ["one", "two"]
    assert (await failure(stream.read())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_method_is_unimplemented(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    call = caller.channel.unary_unary("/test.Parrot/Sing")
    assert (await failure(call(b"", timeout=60))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert caplog.records == []


async def test_a_client_that_goes_in_mid_stream_leaves_nothing_in_the_log(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = caller.stream()
    await stream.write(says("hello"))
    await stream.read()
    stream.cancel()
    assert await caller.call("unary_unary", says("next")) == ["next"]
    assert caplog.records == []


async def test_handlers_that_write_by_themselves_work_too(caller: Caller) -> None:
    watch = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=60)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
