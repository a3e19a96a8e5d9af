"""A channel leaves the limit of a message to its receiver: to the other side for what we send, to us for answers."""

from __future__ import annotations

import grpc
from support.parrot import SERVICE, Caller, Parrot, failure, says

from paceline.config.settings import ServerSettings
from paceline.wire.channel import MAX_MESSAGE_BYTES, connect
from paceline.wire.server import serve

GENEROUS = ServerSettings(max_message_bytes=4 * MAX_MESSAGE_BYTES, grace_s=0.0)
LONG = "x" * 2 * MAX_MESSAGE_BYTES


async def test_what_a_generous_server_takes_can_be_sent() -> None:
    parrot = Parrot()
    parrot.errors[LONG] = ValueError("heard")
    async with serve(GENEROUS, parrot.register, [SERVICE]) as running, connect(running.address) as channel:
        error = await failure(Caller(running.address, channel).call("unary_unary", says(LONG)))
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_an_answer_that_is_too_large_for_us_is_refused_unless_we_ask_for_more() -> None:
    async with serve(GENEROUS, Parrot().register, [SERVICE]) as running:
        async with connect(running.address) as channel:
            error = await failure(Caller(running.address, channel).call("unary_unary", says(LONG)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with connect(running.address, max_message_bytes=3 * MAX_MESSAGE_BYTES) as channel:
            assert await Caller(running.address, channel).call("unary_unary", says(LONG)) == [LONG]
