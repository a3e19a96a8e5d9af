"""Turns errors of a servicer into gRPC statuses, for every kind of call in one place; unknown ones are logged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias, cast

import grpc

from paceline.core.errors import Internal, PacelineError
from paceline.wire.errors import status_of

_log = logging.getLogger(__name__)
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


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
        codecs: Any = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            kind: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            inner: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return cast("_Handler", kind(_streaming(inner), **codecs))
        if handler.request_streaming:
            return handler
        return grpc.unary_unary_rpc_method_handler(_unary(cast("Any", handler.unary_unary)), **codecs)


def _unary(inner: Callable[[Any, _Context], Awaitable[Any]]) -> Callable[[Any, _Context], Awaitable[Any]]:
    async def call(request: object, context: _Context) -> object:
        async with _statuses(context):
            return await inner(request, context)

    return call


def _streaming(inner: Callable[[Any, _Context], Any]) -> Callable[[Any, _Context], Any]:
    async def call(request: object, context: _Context) -> AsyncIterator[object]:
        async with _statuses(context), aclosing(inner(request, context)) as responses:
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
