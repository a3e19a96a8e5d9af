"""Turns errors of a servicer into gRPC statuses, for every kind of call in one place; unknown ones are logged.

gRPC answers bytes that are no protobuf with UNKNOWN and a traceback in the log, before any handler runs. So they are
let through as a marker, and the wrapper of the handler refuses it, also in the middle of a stream.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from paceline.core.errors import Internal, InvalidRequest, PacelineError
from paceline.wire.errors import status_of

_log = logging.getLogger(__name__)
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Call: TypeAlias = Callable[[Any, _Context], Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Outermost: whatever a handler raises reaches the client as a status with a remedy, never as a traceback."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wrap the handler of this call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        name = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
        inner: _Call = getattr(handler, name)
        read = _read_stream if handler.request_streaming else _read
        wrap = _streaming if handler.response_streaming else _unary
        make: Callable[..., Any] = getattr(grpc, f"{name}_rpc_method_handler")
        return cast(
            "_Handler",
            make(
                wrap(inner, partial(read, method=handler_call_details.method)),
                request_deserializer=_marking(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            ),
        )


def _arity(is_streaming: bool) -> str:
    return "stream" if is_streaming else "unary"


class _Malformed:
    """Stands for a message whose bytes could not be read."""


def _marking(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(data: bytes) -> object:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed()

    return read


def _read(request: object, context: _Context, method: str) -> object:
    if isinstance(request, _Malformed):
        _log.warning("malformed message", extra={"method": method, "peer": context.peer()})
        raise InvalidRequest(f"A message to {method} is not a protobuf of its type; check the client's version of it.")
    return request


async def _read_stream(requests: AsyncIterator[object], context: _Context, method: str) -> AsyncIterator[object]:
    async for request in requests:
        yield _read(request, context, method)


def _unary(inner: _Call, read: _Call) -> _Call:
    async def call(request: object, context: _Context) -> object:
        async with _statuses(context):
            return await inner(read(request, context), context)

    return call


def _streaming(inner: _Call, read: _Call) -> _Call:
    async def call(request: object, context: _Context) -> AsyncIterator[object]:
        async with _statuses(context):
            responses = inner(read(request, context), context)
            if inspect.isawaitable(responses):  # it writes its responses by itself, as the health service does
                await responses
                return
            async with aclosing(responses):
                async for response in responses:
                    yield response

    return call


@asynccontextmanager
async def _statuses(context: _Context) -> AsyncIterator[None]:
    try:
        yield
    except PacelineError as error:
        await _abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:
        _log.exception("call failed")
        await _abort(context, Internal("The service failed; its log says why."))


async def _abort(context: _Context, error: PacelineError) -> None:
    code, message, trailing = status_of(error)
    await context.abort(code, message, trailing)
