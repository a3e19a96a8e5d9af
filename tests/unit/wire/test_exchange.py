"""The serving side of a stream: commands are handled as they come, events go out as they are, the end is orderly."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from paceline.core.errors import InvalidRequest
from paceline.core.types import Close
from paceline.wire.exchange import exchange
from paceline.wire.outbox import Outbox


async def commands(*batches: Sequence[str]) -> AsyncIterator[Sequence[str]]:
    for batch in batches:
        yield batch


async def test_every_command_is_handled_in_order_though_nothing_comes_of_it() -> None:
    handled: list[str] = []
    outbox: Outbox[Close] = Outbox()
    events = [batch async for batch in exchange(commands(["a", "b"], [], ["c"]), handled.append, outbox)]
    assert (handled, events) == (["a", "b", "c"], [])


async def test_events_are_sent_while_more_commands_may_come() -> None:
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[Sequence[str]]:
        yield ["a"]
        await asked.wait()
        yield ["b"]

    outbox: Outbox[Close] = Outbox()
    stream = exchange(endless(), lambda name: outbox.put(Close(name)), outbox)
    assert await anext(stream) == [Close("a")]
    asked.set()
    assert [batch async for batch in stream] == [[Close("b")]]


async def test_events_that_wait_when_the_commands_end_are_still_sent() -> None:
    outbox: Outbox[Close] = Outbox()

    def handle(name: str) -> None:
        outbox.put(Close(name))

    assert [batch async for batch in exchange(commands(["a"], ["b"]), handle, outbox)] == [[Close("a"), Close("b")]]


async def test_a_command_that_fails_ends_the_stream_behind_what_was_answered() -> None:
    outbox: Outbox[Close] = Outbox()

    def handle(name: str) -> None:
        if name == "bad":
            raise InvalidRequest("A bad one.")
        outbox.put(Close(name))

    stream = exchange(commands(["a", "bad", "b"]), handle, outbox)
    assert await anext(stream) == [Close("a")]
    with pytest.raises(InvalidRequest, match="A bad one"):
        await anext(stream)


async def test_commands_that_cannot_be_read_end_the_stream_with_the_reason() -> None:
    async def broken() -> AsyncIterator[Sequence[str]]:
        yield ["a"]
        raise InvalidRequest("Not a message.")

    outbox: Outbox[Close] = Outbox()
    stream = exchange(broken(), lambda name: outbox.put(Close(name)), outbox)
    assert await anext(stream) == [Close("a")]
    with pytest.raises(InvalidRequest, match="Not a message"):
        await anext(stream)


async def test_a_reader_that_goes_ends_the_reading_of_commands() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[Sequence[str]]:
        try:
            yield ["a"]
            await asyncio.Event().wait()
        finally:
            ended.set()

    outbox: Outbox[Close] = Outbox()
    async with aclosing(exchange(endless(), lambda name: outbox.put(Close(name)), outbox)) as stream:
        await anext(stream)
    assert ended.is_set()
    assert {task.get_name() for task in asyncio.all_tasks()} & {"exchange"} == set()


async def test_a_failure_that_nobody_waits_for_any_more_is_not_left_behind() -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    async def broken() -> AsyncIterator[Sequence[str]]:
        yield ["a"]
        raise InvalidRequest("Nobody hears this.")

    outbox: Outbox[Close] = Outbox()
    async with aclosing(exchange(broken(), lambda name: outbox.put(Close(name)), outbox)) as stream:
        await anext(stream)
    del stream
    gc.collect()
    assert complaints == []
