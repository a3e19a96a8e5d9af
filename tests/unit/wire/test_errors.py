"""An error keeps its kind, its text and whether a retry can help on its way through gRPC."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from support.parrot import Caller, Parrot, failure, says

from paceline.core import errors
from paceline.core.errors import PacelineError, ResourceExhausted, Unavailable
from paceline.wire.channel import connect
from paceline.wire.errors import from_rpc

ARRIVES_AS: dict[type[PacelineError], type[PacelineError]] = {
    errors.InvalidRequest: errors.InvalidRequest,
    errors.NotFound: errors.NotFound,
    errors.Mismatch: errors.Mismatch,
    errors.Unsupported: errors.Unsupported,
    errors.Conflict: errors.Conflict,
    errors.ResourceExhausted: errors.ResourceExhausted,
    errors.Unavailable: errors.Unavailable,
    errors.StoreUnavailable: errors.Unavailable,
    errors.DeadlineExceeded: errors.DeadlineExceeded,
    errors.Cancelled: errors.Cancelled,
    errors.StoreRefusal: errors.StoreRefusal,
    errors.Fenced: errors.StoreRefusal,
    errors.Gap: errors.StoreRefusal,
    errors.Diverged: errors.Diverged,
    errors.Internal: errors.Internal,
}


def test_the_table_above_holds_the_whole_tree() -> None:
    def tree(kind: type[PacelineError]) -> set[type[PacelineError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    assert tree(PacelineError) - {PacelineError} == set(ARRIVES_AS)


@pytest.mark.parametrize("kind", ARRIVES_AS)
async def test_an_error_arrives_as_its_kind_with_its_text(
    caller: Caller, parrot: Parrot, kind: type[PacelineError]
) -> None:
    parrot.errors["x"] = kind("Größe: too much; ask for less.")
    received = from_rpc(await failure(caller.call("stream_stream", says("x"))), caller.address)
    assert type(received) is ARRIVES_AS[kind]
    assert str(received) == "Größe: too much; ask for less."
    assert (received.code, received.retryable) == (kind.code, kind.retryable)


async def test_clients_that_want_more_find_the_exact_kind_in_the_details(caller: Caller, parrot: Parrot) -> None:
    parrot.errors["x"] = errors.Fenced("Somebody else's.")
    trailing = (await failure(caller.call("unary_unary", says("x")))).trailing_metadata()
    details = next(value for key, value in trailing or () if key == "grpc-status-details-bin")
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (grpc.StatusCode.ABORTED.value[0], "Somebody else's.")
    assert (info.reason, info.domain, dict(info.metadata)) == ("Fenced", "paceline", {"retryable": "false"})


@pytest.mark.parametrize("letter", ["n", "🦜"])
async def test_an_endless_error_text_is_cut_and_keeps_its_code(caller: Caller, parrot: Parrot, letter: str) -> None:
    parrot.errors["x"] = errors.NotFound(letter * 100_000)
    received = from_rpc(await failure(caller.call("unary_unary", says("x"))), caller.address)
    assert type(received) is errors.NotFound
    assert str(received) == letter * 399 + "…"


async def test_nobody_at_the_address_is_unavailable_with_a_hint(unused_address: str) -> None:
    async with connect(unused_address) as channel:
        error = await failure(channel.unary_unary("/a/b")(b"", timeout=60))
    received = from_rpc(error, unused_address)
    assert type(received) is Unavailable
    assert f"Can't reach {unused_address}" in str(received)
    assert "Is it running?" in str(received)


async def test_a_peer_that_says_it_is_unavailable_keeps_its_own_words(caller: Caller, parrot: Parrot) -> None:
    parrot.errors["x"] = Unavailable("All verifiers are down; start one.")
    received = from_rpc(await failure(caller.call("unary_unary", says("x"))), caller.address)
    assert str(received) == "All verifiers are down; start one."


async def test_a_message_that_is_too_large_is_refused_with_the_setting_to_raise(caller: Caller) -> None:
    error = await failure(caller.call("unary_unary", says("x" * 100_001)))
    received = from_rpc(error, caller.address)
    assert type(received) is ResourceExhausted
    assert "larger than max" in str(received)
    assert "raise server.max_message_bytes" in str(received)
    assert await caller.call("unary_unary", says("x" * 99_000)) == ["x" * 99_000]


async def test_a_message_that_is_too_large_in_mid_stream_ends_that_stream_only(caller: Caller) -> None:
    bad, good = caller.stream(), caller.stream()
    await good.write(says("before"))
    await good.read()
    await bad.write(says("x" * 100_001))
    assert (await failure(bad.read())).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await good.write(says("after"))
    assert (await good.read()).spans[0].name == "after"
    good.cancel()
