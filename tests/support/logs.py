"""Logs of verdicts as a coordinator leaves them."""

from __future__ import annotations

from pathlib import Path

from paceline.core.types import Tokens
from paceline.core.verdicts import Verdict, verdict_to_line


def write_log(directory: Path, *verdicts: Verdict) -> Path:
    """One file; replaces what was there."""
    directory.mkdir(exist_ok=True)
    file = directory / "verdicts-00000001.jsonl"
    file.write_text("".join(verdict_to_line(one) + "\n" for one in verdicts), "utf-8")
    return directory


def verdict(session: str, prompt: Tokens, tokens: Tokens) -> Verdict:
    """A whole text in one record."""
    return Verdict(session, len(prompt), len(prompt), tokens, tail=prompt)
