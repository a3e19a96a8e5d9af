"""Prompt files for training: JSONL with ``prompt``, ``turns`` or ``token_ids``, and optionally source and licence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import Tokens


@dataclass(frozen=True, slots=True)
class TrainingPrompt:
    """One line."""

    messages: tuple[tuple[str, str], ...]
    """(role, content); empty when there are token ids."""
    token_ids: Tokens = ()
    source: str = ""
    """Where it comes from and under which licence, for the record."""


def read_training_prompts(paths: Sequence[Path]) -> list[TrainingPrompt]:
    """All lines of all files. Raises ``NotFound``, and ``InvalidRequest`` that names file and line."""
    prompts = [prompt for path in paths for prompt in _read(path)]
    if not prompts:
        raise InvalidRequest("prompts: there is no prompt in " + ", ".join(map(str, paths)) + ".")
    return prompts


def count_sources(prompts: Sequence[TrainingPrompt]) -> dict[str, int]:
    """Prompts per source."""
    names = [one.source or "unnamed" for one in prompts]
    return {name: names.count(name) for name in sorted(set(names))}


def _read(path: Path) -> Iterator[TrainingPrompt]:
    if not path.is_file():
        raise NotFound(f"prompts: there is no file {path}.")
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"prompts: {path} is not UTF-8 text: {error.reason}.") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parse(line, f"line {number} of {path}")


def _parse(line: str, where: str) -> TrainingPrompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"prompts: {where} is not JSON ({error}); mend or delete it.") from error
    if not isinstance(row, dict):
        raise InvalidRequest(f'prompts: {where} is not a JSON object; write {{"prompt": …}}.')
    source = ", ".join(str(row[name]) for name in ("source", "licence") if row.get(name))
    if "token_ids" in row:
        return TrainingPrompt((), _ids(row["token_ids"], where), source)
    texts = row["turns"] if "turns" in row else [row.get("prompt")]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(f"prompts: {where} needs a prompt, turns or token_ids that are not empty.")
    roles = ("user", "assistant")
    return TrainingPrompt(tuple((roles[i % 2], text) for i, text in enumerate(texts)), (), source)


def _ids(value: Any, where: str) -> Tokens:  # noqa: ANN401
    if not isinstance(value, list) or not value or not all(type(one) is int and one >= 0 for one in value):
        raise InvalidRequest(f"prompts: token_ids in {where} must be a list of token numbers that is not empty.")
    return tuple(value)
