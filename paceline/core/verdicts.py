"""What became of a draft: the record that a coordinator may log and that training reads. Token ids, never text.

One line of JSON per record. Pure: who writes and reads files is elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from paceline.core.errors import InvalidRequest
from paceline.core.laws import law_from_values, law_to_values
from paceline.core.types import Profile, SamplingParams, Tokens

VERSION = 2
"""Of the records; those of version 1 don't say it, and have no origin."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose text it is, and how it came about."""

    target: str
    """As ``VerifierInfo.model_digest``."""
    sampling: SamplingParams
    """The law of its tokens, with the seed."""
    profile: Profile = Profile.AUTO


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verifier step of a session: what was guessed for it and what the target said."""

    session: str
    start: int
    """Position of ``tokens[0]``."""
    prompt_length: int
    """Positions below this are prompt."""
    tokens: Tokens
    """Committed by the step: the outcome."""
    draft: Tokens = ()
    """The newest guess for the positions from ``start`` on that the coordinator passed on; may be longer."""
    drafted: int = 0
    """Draft tokens that the verifier checked."""
    accepted: int = 0
    """How many of them were right."""
    source: str = ""
    """Name of the drafter."""
    tail: Tokens = ()
    """Committed tokens right before ``start``; given once per session and file, as the rest is in earlier records."""
    origin: Origin | None = None
    """Given with ``tail``."""


_FIELDS = tuple(field.name for field in fields(Verdict))
_TOKENS = ("tokens", "draft", "tail")
_NUMBERS = ("start", "prompt_length", "drafted", "accepted")


def verdict_to_line(verdict: Verdict) -> str:
    """Without the line's end; what is empty is left out."""
    values = {name: getattr(verdict, name) for name in _FIELDS if name != "origin"}
    if verdict.origin is not None:
        values["origin"] = _origin_to_values(verdict.origin)
    kept = {name: value for name, value in values.items() if value}
    return json.dumps({"version": VERSION, **kept}, separators=(",", ":"))


def _origin_to_values(origin: Origin) -> dict[str, Any]:
    law = law_to_values(origin.sampling)
    return {"target": origin.target, "profile": origin.profile.value} | ({"law": law} if law else {})


def verdict_from_line(line: str) -> Verdict:
    """The inverse. Raises ``InvalidRequest`` that says what is wrong with it."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"it is not JSON: {error.msg}.") from error
    if not isinstance(values, dict) or not values.get("session") or not values.get("tokens"):
        raise InvalidRequest("it is no verdict: session and tokens are needed.")
    _check_version(values.get("version", 1))
    for name, value in values.items():
        if name in _FIELDS and not _is_fit(name, value):
            raise InvalidRequest(f"{name} is {value!r:.40}, which is no value for it.")
    return Verdict(
        session=values["session"],
        start=values.get("start", 0),
        prompt_length=values.get("prompt_length", 0),
        tokens=tuple(values["tokens"]),
        draft=tuple(values.get("draft", ())),
        drafted=values.get("drafted", 0),
        accepted=values.get("accepted", 0),
        source=values.get("source", ""),
        tail=tuple(values.get("tail", ())),
        origin=_origin_from_values(values["origin"]) if "origin" in values else None,
    )


def _check_version(version: object) -> None:
    if not _is_count(version):
        raise InvalidRequest(f"version is {version!r:.40}, which is no value for it.")
    if version not in range(1, VERSION + 1):
        raise InvalidRequest(f"it is of version {version}, and this program knows up to {VERSION}; update it.")


def _origin_from_values(values: Mapping[str, Any]) -> Origin:
    target, profile = values.get("target", ""), values.get("profile", Profile.AUTO)
    if not isinstance(target, str) or profile not in tuple(Profile):
        raise InvalidRequest(f"origin is {dict(values)!r:.40}, which is no value for it.")
    return Origin(target, law_from_values(values.get("law", {})), Profile(profile))


def _is_fit(name: str, value: object) -> bool:
    if name in _TOKENS:
        return isinstance(value, list) and all(_is_count(one) for one in value)
    if name == "origin":
        return isinstance(value, dict)
    return _is_count(value) if name in _NUMBERS else isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
