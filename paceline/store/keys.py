"""Names and bytes of the store: two keys per session with one hash tag, tokens as unsigned 32-bit little-endian."""

from __future__ import annotations

import re

import numpy as np

from paceline.core.errors import InvalidRequest
from paceline.core.types import FinishReason, Tokens

_SESSION = re.compile(r"[0-9A-Za-z._-]{1,64}")

STATES = {
    None: "",
    FinishReason.STOP: "D",
    FinishReason.LENGTH: "D",
    FinishReason.CANCELLED: "C",
    FinishReason.ERROR: "F",
}
"""State that a final commit leads to."""
TERMINAL_TTL_S = 3600.0
"""Ended sessions can be read this long."""


def keys(session: str) -> tuple[str, str]:
    """(hash, tokens). Ids that could forge a key raise ``InvalidRequest``."""
    if not _SESSION.fullmatch(session):
        raise InvalidRequest(f"session: {session!r} is not an id; use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'.")
    return f"pl:{{{session}}}:h", f"pl:{{{session}}}:t"


def pack(tokens: Tokens) -> bytes:
    """Four bytes per token."""
    return np.asarray(tokens, "<u4").tobytes()


def unpack(data: bytes) -> Tokens:
    """The inverse of ``pack``."""
    return tuple(np.frombuffer(data, "<u4").tolist())
