"""A server says when it is ready, lets calls end, and refuses an address that it can't have in words that help."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.parrot import SERVICE, Caller, Parrot, failure, says

from paceline.config.settings import ServerSettings
from paceline.core.errors import InvalidRequest
from paceline.v1 import diagnostics_pb2 as pb
from paceline.wire.server import Running, announce, serve, until_signal

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
QUICK = ServerSettings(grace_s=0.0)


async def health(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int((await health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)).status)


async def test_it_is_alive_at_once_and_ready_when_the_process_says_so(parrot: Parrot) -> None:
    async with (
        serve(QUICK, parrot.register, [SERVICE]) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        assert [await health(channel, name) for name in ("", SERVICE)] == [SERVING, NOT_SERVING]
        await running.set_serving(True)
        assert [await health(channel, name) for name in ("", SERVICE)] == [SERVING, SERVING]
        await running.set_serving(False)
        assert [await health(channel, name) for name in ("", SERVICE)] == [SERVING, NOT_SERVING]
        error = await failure(health(channel, "test.Owl"))
        assert error.code() is grpc.StatusCode.NOT_FOUND


class Slow(Parrot):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def unary_unary(self, request: pb.ReadSpansRequest, context: Any) -> pb.ReadSpansResponse:
        self.asked.set()
        await self.go.wait()
        return self.answer(request)


async def test_while_it_drains_it_is_not_ready_and_calls_under_way_may_end() -> None:
    slow = Slow()
    left = asyncio.Event()

    async def life(ready: asyncio.Future[str]) -> None:
        async with serve(ServerSettings(grace_s=30.0), slow.register, [SERVICE]) as running:
            await running.set_serving(True)
            ready.set_result(running.address)
            await left.wait()

    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(life(ready))
    async with grpc.aio.insecure_channel(await ready) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        assert (await watch.read()).status == SERVING
        call = asyncio.create_task(Caller(await ready, channel).call("unary_unary", says("late")))
        await slow.asked.wait()
        left.set()
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        async with asyncio.timeout(60):
            while await takes_calls(await ready):
                pass
        slow.go.set()
        assert await call == ["late"]
    await server


async def takes_calls(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await health(channel, "")
        except grpc.aio.AioRpcError:
            return False
    return True


async def test_a_port_in_use_is_refused_with_a_remedy(parrot: Parrot) -> None:
    async with serve(QUICK, parrot.register, [SERVICE]) as first:
        with pytest.raises(InvalidRequest, match=r"may be in use\. Choose another, or 0") as caught:
            async with serve(ServerSettings(listen=first.address), parrot.register, [SERVICE]):
                pass
        assert first.address in str(caught.value)


@pytest.mark.parametrize("listen", ["", "localhost", ":50051", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000"])
async def test_what_is_no_address_is_refused_by_the_setting(parrot: Parrot, listen: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^server\.listen: .* is not host:port"):
        async with serve(ServerSettings(listen=listen), parrot.register, [SERVICE]):
            pass


async def services(channel: grpc.aio.Channel) -> list[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=60)
    return [service.name async for answer in call for service in answer.list_services_response.service]


async def test_reflection_is_off_unless_it_is_asked_for(caller: Caller) -> None:
    assert (await failure(services(caller.channel))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_lists_the_services(parrot: Parrot) -> None:
    settings = ServerSettings(reflection=True, grace_s=0.0)
    async with (
        serve(settings, parrot.register, [SERVICE]) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        assert {SERVICE, "grpc.health.v1.Health"} <= set(await services(channel))


@pytest.fixture
async def running(parrot: Parrot) -> AsyncIterator[Running]:
    async with serve(QUICK, parrot.register, [SERVICE]) as one:
        yield one


async def test_the_ready_line_is_one_whole_json_object_in_its_file(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    announce("verifier", running, ServerSettings(ready_file=str(file)), "127.0.0.1:9")
    line = {"role": "verifier", "pid": os.getpid(), "address": running.address, "metrics": "127.0.0.1:9"}
    assert file.read_text("utf-8").endswith("}\n")
    assert json.loads(file.read_text("utf-8")) == line
    assert os.listdir(tmp_path) == ["ready.json"]


async def test_the_ready_line_may_go_to_standard_output_or_nowhere(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    announce("drafter", running, ServerSettings(), "")
    assert capsys.readouterr().out == ""
    announce("drafter", running, ServerSettings(ready_file="-"), "")
    assert json.loads(capsys.readouterr().out)["role"] == "drafter"


async def test_a_ready_file_that_cannot_be_written_is_refused_by_its_setting(running: Running, tmp_path: Path) -> None:
    settings = ServerSettings(ready_file=str(tmp_path / "nowhere" / "ready.json"))
    with pytest.raises(InvalidRequest, match=r"^server\.ready_file: can't write"):
        announce("drafter", running, settings, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_waiting_and_the_next_one_acts_as_usual(number: signal.Signals) -> None:
    waiting = asyncio.create_task(until_signal())
    await asyncio.sleep(0)
    os.kill(os.getpid(), number)
    async with asyncio.timeout(60):
        await waiting
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
