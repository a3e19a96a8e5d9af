"""A gRPC server with health, optional reflection, and an orderly end; every process uses this one.

Health follows grpc.health.v1: "" is liveness, a service's name is readiness (NOT_SERVING while starting or draining).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paceline.config.settings import ServerSettings
from paceline.core.errors import InvalidRequest
from paceline.wire.channel import KEEPALIVE
from paceline.wire.interceptors import ErrorInterceptor

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Running:
    """A server that listens; readiness is announced by the process once it can work."""

    def __init__(self, address: str, services: Sequence[str], checks: health.aio.HealthServicer) -> None:
        self.address = address
        self._services = services
        self._checks = checks

    async def set_serving(self, is_serving: bool) -> None:
        """Tell health checks whether new work is welcome."""
        for service in self._services:
            await self._checks.set(service, _SERVING if is_serving else _NOT_SERVING)


@asynccontextmanager
async def serve(
    settings: ServerSettings, register: Callable[[grpc.aio.Server], None], services: Sequence[str]
) -> AsyncIterator[Running]:
    """Listen for the length of the block; calls get ``grace_s`` to end after it. Raises for an address in use."""
    server = _server(settings)
    register(server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set("", _SERVING)
    running = Running(_bind(server, settings.listen), services, checks)
    await running.set_serving(False)
    if settings.reflection:
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    await server.start()
    try:
        yield running
    finally:
        await running.set_serving(False)
        await server.stop(settings.grace_s)


def _server(settings: ServerSettings) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=(ErrorInterceptor(),),
        options=(
            *KEEPALIVE,
            ("grpc.so_reuseport", 0),  # two servers on one port must fail, not share it
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.max_concurrent_streams", settings.max_streams),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
        ),
    )


def _bind(server: grpc.aio.Server, listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidRequest(f"server.listen: {listen!r} is not host:port, such as 127.0.0.1:50051.")
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise InvalidRequest(
            f"server.listen: can't listen on {listen}; the port may be in use. Choose another, or 0 for a free one."
        ) from error
    return f"{host}:{bound}"


async def until_signal() -> None:
    """Return on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """Call ``call`` on every SIGHUP for the length of the block."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def announce(role: str, running: Running, settings: ServerSettings, metrics: str) -> None:
    """Write the ready line, whole or not at all."""
    line = json.dumps({"role": role, "pid": os.getpid(), "address": running.address, "metrics": metrics})
    if settings.ready_file == "-":
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if settings.ready_file in ("", "-"):
        return
    path = Path(settings.ready_file)
    part = path.with_suffix(".part")
    try:
        part.write_text(line + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise InvalidRequest(f"server.ready_file: can't write {path}: {error.strerror}.") from error
