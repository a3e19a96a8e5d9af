"""Settings from flags, environment and a file, in this order of precedence; read once, at start.

Keys are dotted (``server.listen``); the environment has them as ``PACELINE_SERVER_LISTEN``, files as nested tables.
Unknown keys and values of a wrong type are errors that name their source.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import json
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml

from paceline.core.errors import InvalidRequest
from paceline.core.requests import DraftMode

SettingsT = TypeVar("SettingsT")
PREFIX = "PACELINE_"
OTHER_VARIABLES = frozenset({"PACELINE_CACHE"})
"""Read elsewhere; not settings of a process."""


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One setting, for ``--help`` and the configuration page."""

    key: str
    kind: type
    default: object
    doc: str

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.key.replace(".", "_").upper()


def load(
    cls: type[SettingsT],
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> SettingsT:
    """The settings, complete. Raises ``InvalidRequest``."""
    known = {doc.key: doc for doc in describe(cls)}
    values: dict[str, object] = {}
    if file is not None:
        for key, value in _flatten(_read(file)):
            _put(values, _require(key, known, f"file {file}"), value, f"file {file}")
    for doc in known.values():
        if doc.variable in (env or {}):
            _put(values, doc, (env or {})[doc.variable], f"environment {doc.variable}")
    _check_variables(env or {})
    for key, text in overrides:
        _put(values, _require(key, known, "flag"), text, "flag")
    return _build(cls, values, "")


def describe(cls: type[Any]) -> list[FieldDoc]:
    """Every setting with the text below its field."""
    return _describe(cls(), "")


def _describe(defaults: object, prefix: str) -> list[FieldDoc]:
    """Of an instance, since a nested default may differ from its class's own."""
    cls = type(defaults)
    hints, docs = get_type_hints(cls), _docs(cls)
    out: list[FieldDoc] = []
    for field in fields(cast("Any", cls)):
        default = getattr(defaults, field.name)
        if is_dataclass(default):
            out += _describe(default, f"{prefix}{field.name}.")
        else:
            out.append(FieldDoc(prefix + field.name, hints[field.name], default, docs.get(field.name, "")))
    return out


def _docs(cls: type[Any]) -> dict[str, str]:
    body = cast("ast.ClassDef", ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    docs = {}
    for field, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            docs[field.target.id] = " ".join(str(cast("Any", below).value.value).split())
    return docs


def _read(file: Path) -> Mapping[str, object]:
    try:
        text = file.read_text("utf-8")
        if file.suffix == ".toml":
            content: object = tomllib.loads(text)
        else:
            content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InvalidRequest(f"config: can't read {file}: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidRequest(f"config: {file} is not valid: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"config: {file} must hold a table of settings.")
    return content


def _flatten(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _require(key: str, known: Mapping[str, FieldDoc], source: str) -> FieldDoc:
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else "see --help for all settings."
        raise InvalidRequest(f"{source}: there is no setting {key!r}; {hint}")
    return known[key]


def _check_variables(env: Mapping[str, str]) -> None:
    """A misspelt variable is an error; those of the other processes' settings are not."""
    from paceline.config import settings

    classes = (settings.VerifierSettings, settings.DrafterSettings, settings.CoordinatorSettings)
    known = {doc.variable for cls in classes for doc in describe(cls)} | OTHER_VARIABLES
    for name in env:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "see --help for all settings."
            raise InvalidRequest(f"environment: {name} is no setting; {hint}")


def _put(values: dict[str, object], doc: FieldDoc, value: object, source: str) -> None:
    try:
        values[doc.key] = _convert(doc.kind, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{source}: {doc.key} must be {_NAMES.get(doc.kind, 'a list')}, got {value!r}.") from error
    _check_range(doc.key, values[doc.key])


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _convert(kind: type, value: object) -> object:
    if kind is bool:
        return _bool(value)
    if kind is int or kind is float:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise TypeError(value)
        return kind(cast("str", value))
    if kind is str:
        if not isinstance(value, str):
            raise TypeError(value)
        return value
    parts = value.split(",") if isinstance(value, str) else cast("Sequence[object]", value)
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _bool(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError(value)
    return words[value.lower()]


_MAY_BE_ZERO = frozenset(
    {
        *("threads", "max_draft", "window", "fan_out", "grace_s"),
        *("model_seed", "step_base_s", "step_row_s", "step_kv_s", "agreement"),
        *("alternatives", "hit", "call_base_s", "call_token_s", "call_row_s"),
    }
)
_CHANCES = frozenset({"agreement", "hit", "least_reach"})
_LARGEST = 2**31 - 1
"""Of whole numbers: gRPC's own limit, and far beyond use for all others."""


def _check_range(key: str, value: object) -> None:
    name = key.rpartition(".")[2]
    if name == "mode" and value not in tuple(DraftMode):
        raise InvalidRequest(f"{key}: {value!r} is no mode; choose one of {', '.join(DraftMode)}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least = "0 or more" if name in _MAY_BE_ZERO else "more than 0"
    if not 0 <= value < float("inf") or (value == 0 and name not in _MAY_BE_ZERO):
        raise InvalidRequest(f"{key}: {value} is out of range; it must be {least}.")
    if isinstance(value, int) and value > _LARGEST:
        raise InvalidRequest(f"{key}: {value} is too large; at most {_LARGEST} will do.")
    if name in _CHANCES and value > 1.0:
        raise InvalidRequest(f"{key}: {value} is a chance; it must be at most 1.")


def _build(cls: type[SettingsT], values: Mapping[str, object], prefix: str) -> SettingsT:
    """Defaults come from the classes; a nested default may differ from its class's own."""
    hints, chosen = get_type_hints(cls), {}
    base = cls()
    for field in fields(cast("Any", cls)):
        key, kind = prefix + field.name, hints[field.name]
        if is_dataclass(kind):
            chosen[field.name] = _overlay(getattr(base, field.name), values, f"{key}.")
        elif key in values:
            chosen[field.name] = values[key]
    return cls(**chosen)


def _overlay(base: object, values: Mapping[str, object], prefix: str) -> object:
    own = {field.name: getattr(base, field.name) for field in fields(cast("Any", base))}
    own |= {name: values[prefix + name] for name in own if prefix + name in values}
    return type(base)(**own)
