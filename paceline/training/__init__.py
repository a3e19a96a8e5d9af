"""Drafters from a target: regenerate text with it, learn to guess it, export.

One lazy registry: a kind is a module with a function ``train(subject, out, options, record, tell)``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from paceline.core.errors import InvalidRequest

KINDS = {
    "mtp": "a block of tokens per call, from the target's hidden states",
    "medusa": "heads on the newest hidden state, second choices as branches",
    "draft-model": "a language model of two layers with the target's tokenizer, for drafter=model",
}
"""What can be trained, and what it is."""


def trainer(kind: str) -> Any:  # noqa: ANN401 - importing the type would import torch
    """The ``train`` function of a kind."""
    if kind not in KINDS:
        raise InvalidRequest(f"kind: {kind!r} can't be trained; choose one of {', '.join(KINDS)}.")
    return import_module(f"paceline.training.{kind.replace('-', '_')}").train
