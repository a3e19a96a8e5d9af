"""Reads a corpus for the shared suffix index: text, or JSONL with ``text``, ``prompt`` or ``turns``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import Tokens
from paceline.text.resolve import model_directory
from paceline.text.tokenizer import Tokenizer


def read_corpus(settings: DrafterSettings) -> tuple[list[Tokens], str]:
    """Documents as token ids, and the digest of the tokenizer that made them."""
    path = Path(settings.corpus)
    if not path.is_file():
        raise NotFound(f"corpus: no file {path}; point it at text or JSONL, or leave it empty.")
    if not settings.model:
        raise InvalidRequest("corpus: a tokenizer is needed to read it; set model to the target's.")
    tokenizer = Tokenizer.load(model_directory(settings.model))
    return [tokenizer.encode(text) for text in _texts(path)], tokenizer.digest


def _texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"corpus: {path} is not UTF-8 text: {error}; convert it.") from error
    if path.suffix != ".jsonl":
        yield content
        return
    # Not splitlines(): JSON strings may hold other line separators as they are.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _text(line, f"line {number} of {path}")


def _text(line: str, place: str) -> str:
    try:
        row = json.loads(line)
        text = row["text"] if "text" in row else row["prompt"] if "prompt" in row else "\n".join(row["turns"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"corpus: {place} has no text, prompt or turns.") from error
    if not isinstance(text, str):
        raise InvalidRequest(f"corpus: {place} has no text, prompt or turns.")
    return text
