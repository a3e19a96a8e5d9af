"""Renders a conversation with the model's own Jinja template, as ``transformers`` does.

Templates come from model repositories and are untrusted: they run in an immutable sandbox that sees only strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from paceline.core.errors import InvalidRequest

_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Generation(Extension):
    """``{% generation %}`` marks text for training; here it is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it as a plain class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Reaching for Python's insides is an error; jinja2 alone would show nothing in its place."""

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        raise SecurityError(f"it may not use {attribute!r}")


class ChatTemplate:
    """One compiled template and the special tokens that it may name."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InvalidRequest(f"The model's chat template does not compile: {error}. Send raw text.") from error
        self._specials = dict(specials)

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The prompt up to where the assistant is to speak."""
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            return self._template.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._specials
            )
        except Exception as error:  # a template is foreign code: it can fail in any way
            raise InvalidRequest(f"chat: the model's template refuses this conversation: {error}.") from error


def load_chat_template(directory: Path) -> ChatTemplate | None:
    """From ``chat_template.jinja``, else from ``tokenizer_config.json``; None when the model has none."""
    template_file = directory / "chat_template.jinja"
    config = _config(directory / "tokenizer_config.json")
    source = _text(template_file) if template_file.is_file() else _default(config.get("chat_template"))
    if not source:
        return None
    named = {name: _content(config.get(name)) for name in _SPECIALS}
    return ChatTemplate(source, {name: text for name, text in named.items() if text is not None})


def _config(file: Path) -> Mapping[str, object]:
    if not file.is_file():
        return {}
    try:
        config = json.loads(_text(file))
    except ValueError as error:
        raise InvalidRequest(f"{file} is not JSON: {error}. Get the model's files again.") from error
    if not isinstance(config, dict):
        raise InvalidRequest(f"{file} must hold an object. Get the model's files again.")
    return config


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Can't read {file}: {error}. Get the model's files again.") from error


def _default(entry: object) -> str | None:
    """A template is a string, or a list of named ones of which ``default`` counts."""
    if isinstance(entry, list):
        named = [one for one in entry if isinstance(one, Mapping) and one.get("name") == "default"]
        entry = named[0].get("template") if named else None
    return entry if isinstance(entry, str) else None


def _content(entry: object) -> str | None:
    """A special token is a string or an ``AddedToken`` as a mapping."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
