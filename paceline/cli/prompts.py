"""Reads prompt files: JSONL with ``prompt`` (text), ``turns`` (a conversation, of which the first turn is asked) or
``token_ids``, for services without a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.requests import Chat, ChatMessage, Prompt
from paceline.core.types import Tokens


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt and where it belongs."""

    text: str
    name: str
    """Unique in its file: ``question_id``, ``id`` or the number of the line."""
    task: str
    token_ids: Tokens = ()
    """The prompt when it is given as ids; ``text`` is empty then."""

    def prompt(self, *, is_chat: bool) -> Prompt:
        """As a request has it."""
        if self.token_ids:
            return self.token_ids
        return Chat((ChatMessage("user", self.text),)) if is_chat else self.text


def read_prompts(path: Path, limit: int = 0) -> list[PromptRow]:
    """All rows, or ``limit`` of them spread evenly over the file, so that every task has its share."""
    if not path.is_file():
        raise NotFound(f"prompts: there is no file {path}.")
    rows = list(_unique(_rows(path)))
    if not rows:
        raise InvalidRequest(f"prompts: {path} is empty.")
    return spread(rows, limit) if limit else rows


def spread(rows: Sequence[PromptRow], limit: int) -> list[PromptRow]:
    """``limit`` rows at even distances."""
    count = min(limit, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _unique(rows: Iterator[PromptRow]) -> Iterator[PromptRow]:
    """Measurements are paired by name: a name that comes again gets a number."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.name] = times = seen.get(row.name, 0) + 1
        yield row if times == 1 else replace(row, name=f"{row.name}#{times}")


def _rows(path: Path) -> Iterator[PromptRow]:
    try:
        lines = path.read_text("utf-8").split("\n")  # a prompt may hold other line separators
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"prompts: {path} is not UTF-8 text: {error.reason}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(line, number, path)


def _row(line: str, number: int, path: Path) -> PromptRow:
    try:
        row = json.loads(line)
        ids = row.get("token_ids", ())
        text = "" if ids else row["prompt"] if "prompt" in row else _first_turn(row["turns"])
        name = str(row.get("question_id", row.get("id", number)))
        task = str(row.get("task") or row.get("category") or "all")
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"prompts: line {number} of {path} needs a prompt, turns or token_ids.") from error
    if ids:
        return PromptRow("", name, task, _ids(ids, number, path))
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"prompts: line {number} of {path} has an empty prompt.")
    return PromptRow(text, name, task)


def _ids(ids: object, number: int, path: Path) -> Tokens:
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise InvalidRequest(f"prompts: token_ids in line {number} of {path} are not a list of numbers of 0 or more.")
    return tuple(ids)


def _first_turn(turns: object) -> object:
    if not isinstance(turns, list):
        raise TypeError(turns)
    return turns[0]
