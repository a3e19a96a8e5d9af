"""Reads prompt files: JSONL with ``prompt`` (text) or ``turns`` (a conversation, of which the first turn is asked)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.core.errors import InvalidRequest, NotFound


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt and where it belongs."""

    text: str
    name: str
    task: str
    is_raw: bool
    """A plain prompt rather than the turn of a user; the chat template is still applied unless told otherwise."""


def read_prompts(path: Path, limit: int = 0) -> list[PromptRow]:
    """All rows, or ``limit`` of them spread evenly over the file, so that every task has its share."""
    if not path.is_file():
        raise NotFound(f"prompts: there is no file {path}.")
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    rows = [_row(line, number, path) for number, line in enumerate(lines, start=1)]
    if not rows:
        raise InvalidRequest(f"prompts: {path} is empty.")
    return spread(rows, limit) if limit else rows


def spread(rows: Sequence[PromptRow], limit: int) -> list[PromptRow]:
    """``limit`` rows at even distances."""
    count = min(limit, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _row(line: str, number: int, path: Path) -> PromptRow:
    try:
        row = json.loads(line)
        is_raw = "prompt" in row
        text = row["prompt"] if is_raw else row["turns"][0]
        name = str(row.get("question_id", row.get("id", number)))
        task = str(row.get("task") or row.get("category") or "all")
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"prompts: line {number} of {path} needs a prompt or turns.") from error
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"prompts: line {number} of {path} has an empty prompt.")
    return PromptRow(text, name, task, is_raw)
