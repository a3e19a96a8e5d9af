"""The tree of errors. ``code`` is the gRPC status name, ``retryable`` says whether the same call may succeed later.

PacelineError
├── InvalidRequest          INVALID_ARGUMENT     the caller must change something
├── NotFound                NOT_FOUND            no such session, request or file
├── Mismatch                FAILED_PRECONDITION  model, tokenizer or numerics differ between two parties
├── Unsupported             UNIMPLEMENTED        valid, but not served here
├── Conflict                ALREADY_EXISTS       the session id belongs to another request
├── ResourceExhausted       RESOURCE_EXHAUSTED   no slot, no credit, queue full          (retryable)
├── Unavailable             UNAVAILABLE          a party is down or draining             (retryable)
│   └── StoreUnavailable    UNAVAILABLE          Redis or Valkey can't be reached        (retryable)
├── DeadlineExceeded        DEADLINE_EXCEEDED    the request's time is over
├── Cancelled               CANCELLED            the client or an operator ended it
├── StoreRefusal            ABORTED              the store said no
│   ├── Fenced              ABORTED              another coordinator owns the session
│   ├── Gap                 ABORTED              tokens before these are missing
│   └── Diverged            DATA_LOSS            committed tokens differ: an alarm, never overwritten
└── Internal                INTERNAL             a defect of ours
"""

from __future__ import annotations

from typing import ClassVar


class PacelineError(Exception):
    """Root: every error that crosses a room carries a gRPC status name and says if a retry can help."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False


class InvalidRequest(PacelineError):
    """The caller must change the request."""

    code = "INVALID_ARGUMENT"


class NotFound(PacelineError):
    """No such session, request or file."""

    code = "NOT_FOUND"


class Mismatch(PacelineError):
    """Model, tokenizer or numerics differ between two parties."""

    code = "FAILED_PRECONDITION"


class Unsupported(PacelineError):
    """A valid request that is not served here."""

    code = "UNIMPLEMENTED"


class Conflict(PacelineError):
    """The session id belongs to another request."""

    code = "ALREADY_EXISTS"


class ResourceExhausted(PacelineError):
    """No slot, no credit, or a full queue."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(PacelineError):
    """A party is down or draining."""

    code = "UNAVAILABLE"
    retryable = True


class StoreUnavailable(Unavailable):
    """The session store can't be reached."""


class DeadlineExceeded(PacelineError):
    """The request's time is over."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(PacelineError):
    """The client or an operator ended it."""

    code = "CANCELLED"


class StoreRefusal(PacelineError):
    """The session store said no."""

    code = "ABORTED"


class Fenced(StoreRefusal):
    """Another coordinator owns the session now."""


class Gap(StoreRefusal):
    """Tokens before these are missing in the store."""


class Diverged(StoreRefusal):
    """Committed tokens differ. An alarm: determinism was broken somewhere; nothing is overwritten."""

    code = "DATA_LOSS"


class Internal(PacelineError):
    """A defect of ours."""


def invariant(holds: bool, message: str) -> None:
    """Raise ``Internal`` unless ``holds``: states what our own code promises, never what a user did."""
    if not holds:
        raise Internal(f"Broken invariant: {message}. Please report this with the log.")


_ROOTS: tuple[type[PacelineError], ...] = (
    InvalidRequest, NotFound, Mismatch, Unsupported, Conflict, ResourceExhausted, Unavailable,
    DeadlineExceeded, Cancelled, StoreRefusal, Diverged, Internal,
)  # fmt: skip
_BY_CODE = {error.code: error for error in _ROOTS}


def from_code(code: str, message: str) -> PacelineError:
    """The error for a gRPC status name that came over the wire; unknown names become ``Internal``."""
    return _BY_CODE.get(code, Internal)(message)
