"""What a trained drafter says of itself, in ``drafter.json``: whom it fits, how large it is, how it came about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from paceline.core.errors import InvalidRequest

DESCRIPTION = "drafter.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class TargetIdentity:
    """Whom a drafter was trained for."""

    name: str
    digest: str
    """As ``VerifierInfo.model_digest``."""
    tokenizer_digest: str
    vocab_size: int
    hidden_size: int
    num_layers: int


@dataclass(frozen=True, slots=True)
class Description:
    """The JSON part."""

    kind: str
    name: str
    target: TargetIdentity
    taps: tuple[int, ...]
    """As ``Needs.hidden_states``."""
    history: int
    """As ``Needs.history``."""
    block: int
    """Tokens per call at most."""
    shape: Mapping[str, int]
    """Sizes of the network."""
    calibration: tuple[tuple[float, float], ...]
    """(slope, offset) per place in the block: chance of being right = sigmoid(slope * logit(p) + offset)."""
    warm_calibration: tuple[tuple[float, float], ...] = ()
    """The same at a temperature, where p is a chance given the noise; empty: as without."""
    weights_digest: str = ""
    """SHA-256 of the weights file."""
    training: Mapping[str, Any] | None = None
    """Command, data sources and their licences, figures: for people."""


def parse_description(file: Path) -> Description:
    """Raises ``InvalidRequest`` when a field is missing, unknown or of another format."""
    try:
        content = json.loads(file.read_text("utf-8"))
        if content.pop("format", None) != FORMAT:
            raise InvalidRequest(f"model: {file} is of another format than {FORMAT}; export it with this version.")
        content["target"] = TargetIdentity(**content["target"])
        content["taps"] = tuple(int(tap) for tap in content["taps"])
        content["calibration"] = _curves(content["calibration"])
        content["warm_calibration"] = _curves(content.get("warm_calibration", ()))
        about = Description(**content)
        if about.block < 1 or not about.calibration or not all(type(size) is int for size in about.shape.values()):
            raise ValueError("block, calibration and sizes are not numbers that make sense")
        return about
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"model: {file} is no description of a drafter ({error}); export it again.") from error


def _curves(entries: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(slope), float(offset)) for slope, offset in entries)


def shape_from(about: Description, kind: type[Any]) -> Any:  # noqa: ANN401
    """The sizes as ``kind``. Raises ``InvalidRequest`` for missing or unknown ones."""
    names = {field.name for field in fields(kind)}
    if set(about.shape) != names:
        raise InvalidRequest(f"model: drafter {about.name} has sizes {sorted(about.shape)}, not {sorted(names)}.")
    return kind(**about.shape)
