"""Errors across gRPC: status code and message, with google.rpc.ErrorInfo for clients that want more."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from paceline.core.errors import PacelineError, Unavailable, from_code

_DETAILS = "grpc-status-details-bin"


def status_of(error: PacelineError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """(code, message, trailing metadata) to abort a call with."""
    info = error_details_pb2.ErrorInfo(
        reason=type(error).__name__, domain="paceline", metadata={"retryable": str(error.retryable).lower()}
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=str(error), details=[detail])
    return grpc.StatusCode[error.code], str(error), ((_DETAILS, status.SerializeToString()),)


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> PacelineError:
    """Our error for a failed call to ``address``."""
    code, message = error.code().name, error.details() or ""
    if code == "UNAVAILABLE" and _is_transport(error):
        return Unavailable(f"Can't reach {address}: {message or 'the connection was lost'}. Is it running?")
    return from_code(code, message or f"{address} answered {code}.")


def _is_transport(error: grpc.aio.AioRpcError) -> bool:
    """Our services always send details; the transport never does."""
    trailing = error.trailing_metadata()
    return not trailing or _DETAILS not in {key for key, _ in trailing}
