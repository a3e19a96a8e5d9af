"""Reads the log of verdicts that coordinators keep: records, and the token sequences that they make up together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import Tokens
from paceline.core.verdicts import Origin, Verdict, verdict_from_line
from paceline.telemetry.verdicts import log_files


@dataclass(frozen=True, slots=True)
class LoggedText:
    """Consecutive committed tokens of one session."""

    session: str
    start: int
    """Position of the first token; above 0 when the beginning is not in the log."""
    tokens: Tokens
    prompt_length: int
    """Positions below this are prompt."""
    origin: Origin | None = None
    """None of records that don't say."""

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt among ``tokens``; the rest is the target's."""
        return min(max(0, self.prompt_length - self.start), len(self.tokens))


def read_verdicts(directory: Path) -> Iterator[Verdict]:
    """All records, oldest file first, also while a coordinator writes: a last line without an end is left out.

    Raises ``NotFound`` without any file, ``InvalidRequest`` naming file and line of what is no record.
    """
    files = log_files(directory)
    if not files:
        raise NotFound(f"from-log: there are no verdicts in {directory}; is it a coordinator's verdict_log?")
    for file in files:
        yield from _read(file)


def _read(file: Path) -> Iterator[Verdict]:
    with file.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield verdict_from_line(line)
            except InvalidRequest as error:
                raise InvalidRequest(
                    f"from-log: line {number} of {file}: {error} Delete the line or the file."
                ) from error


def merge(verdicts: Iterable[Verdict]) -> list[LoggedText]:
    """One text per session, in the order of their first records; a session with a gap gives one text per piece."""
    pieces: dict[str, list[_Piece]] = {}
    for verdict in verdicts:
        own = pieces.setdefault(verdict.session, [])
        if not own or own[-1].end != verdict.start:
            own.append(_Piece(verdict.start - len(verdict.tail), list(verdict.tail), verdict.prompt_length))
        own[-1].tokens += verdict.tokens
        own[-1].origin = own[-1].origin or verdict.origin
    return [
        LoggedText(session, piece.start, tuple(piece.tokens), piece.prompt_length, piece.origin)
        for session, own in pieces.items()
        for piece in own
    ]


@dataclass(slots=True)
class _Piece:
    start: int
    tokens: list[int]
    prompt_length: int
    origin: Origin | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)
