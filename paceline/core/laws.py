"""The law of a text as plain JSON values, for records that outlive a request. Only what differs from the default."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from paceline.core.errors import InvalidRequest
from paceline.core.types import Sampler, SamplingParams

_DEFAULTS = SamplingParams()
_NAMES = tuple(field.name for field in fields(SamplingParams))


def law_to_values(law: SamplingParams) -> dict[str, Any]:
    """Ready for ``json.dumps``."""
    values = {name: getattr(law, name) for name in _NAMES}
    return {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}


def law_from_values(values: object) -> SamplingParams:
    """The inverse. Raises ``InvalidRequest``: to leave out what is unknown would make another law of it."""
    if not isinstance(values, dict):
        raise InvalidRequest(f"the law {values!r:.40} is not a set of parameters.")
    return SamplingParams(**{str(name): _parameter(str(name), value) for name, value in values.items()})


def _parameter(name: str, value: Any) -> Any:  # noqa: ANN401
    if name not in _NAMES:
        raise InvalidRequest(f"the law has a parameter {name!r:.40} that this version doesn't know.")
    try:
        return _typed(name, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} is {value!r:.40}, which is no value for it.") from error


def _typed(name: str, value: Any) -> Any:  # noqa: ANN401
    default = getattr(_DEFAULTS, name)
    if name == "sampler":
        return Sampler(value)
    if name == "logit_bias":
        return tuple((_whole(token), _real(bias)) for token, bias in value)
    if isinstance(default, tuple):
        return tuple(_whole(token) for token in value)
    return _whole(value) if type(default) is int else _real(value)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _real(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError
    return float(value)  # type: ignore[arg-type]
