"""Errors across gRPC: status code and message, with google.rpc.ErrorInfo for clients that want more."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from paceline.core.errors import PacelineError, ResourceExhausted, Unavailable, from_code

_DETAILS = "grpc-status-details-bin"
_MAX_TEXT = 400
"""Characters of a message at most: it travels twice in the trailers, of which gRPC takes 8 KiB."""


def status_of(error: PacelineError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """(code, message, trailing metadata) to abort a call with."""
    info = error_details_pb2.ErrorInfo(
        reason=type(error).__name__, domain="paceline", metadata={"retryable": str(error.retryable).lower()}
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    text = str(error)
    text = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=text, details=[detail])
    return grpc.StatusCode[error.code], text, ((_DETAILS, status.SerializeToString()),)


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> PacelineError:
    """Our error for a failed call to ``address``."""
    code, message = error.code().name, error.details() or ""
    if code == "UNAVAILABLE" and _is_transport(error):
        return Unavailable(f"Can't reach {address}: {message or 'the connection was lost'}. Is it running?")
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        return ResourceExhausted(f"{address}: {message}. Send less at once, or raise server.max_message_bytes there.")
    return from_code(code, message or f"{address} answered {code}.")


def _is_transport(error: grpc.aio.AioRpcError) -> bool:
    """Our services always send details; the transport never does."""
    trailing = error.trailing_metadata()
    return not trailing or _DETAILS not in {key for key, _ in trailing}
