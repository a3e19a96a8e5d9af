"""A real server on a free port, and a channel to it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from support.parrot import SERVICE, Caller, Parrot

from paceline.config.settings import ServerSettings
from paceline.wire.server import serve

MAX_MESSAGE_BYTES = 100_000


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
async def caller(parrot: Parrot) -> AsyncIterator[Caller]:
    settings = ServerSettings(max_message_bytes=MAX_MESSAGE_BYTES, grace_s=0.0)
    async with (
        serve(settings, parrot.register, [SERVICE]) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        await running.set_serving(True)
        yield Caller(running.address, channel)


@pytest.fixture
def unused_address() -> str:
    """Nobody listens here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
