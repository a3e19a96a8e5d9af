"""What every back end refuses when a session is opened."""

from __future__ import annotations

from paceline.core.errors import InvalidRequest
from paceline.core.types import SessionSpec, VerifierInfo
from paceline.sampling.processors import validate


def check(spec: SessionSpec, info: VerifierInfo) -> None:
    """Raise ``InvalidRequest`` for parameters or tokens that the model can't serve."""
    validate(spec.sampling, info.vocab_size)
    bad = next((token for token in spec.context if not 0 <= token < info.vocab_size), None)
    if bad is not None:
        raise InvalidRequest(f"context: token id {bad} is outside the vocabulary of {info.vocab_size}.")
