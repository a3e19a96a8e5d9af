"""Logs of verdicts as a coordinator leaves them."""

from __future__ import annotations

from pathlib import Path

from paceline.core.types import SamplingParams, Tokens
from paceline.core.verdicts import Origin, Verdict, verdict_to_line


def write_log(directory: Path, *verdicts: Verdict) -> Path:
    """One file; replaces what was there."""
    directory.mkdir(exist_ok=True)
    file = directory / "verdicts-00000001.jsonl"
    file.write_text("".join(verdict_to_line(one) + "\n" for one in verdicts), "utf-8")
    return directory


def verdict(
    session: str, prompt: Tokens, tokens: Tokens, target: str, sampling: SamplingParams | None = None
) -> Verdict:
    """A whole text of a target in one record; greedy without a law."""
    origin = Origin(target, sampling or SamplingParams())
    return Verdict(session, len(prompt), len(prompt), tokens, tail=prompt, origin=origin)
