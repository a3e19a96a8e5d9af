"""Finds stop strings in text that comes in pieces, and lets nothing past that could be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The string that is completed first ends the text, wherever the pieces were cut; of two at once the longer."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(what is safe to show, whether a stop string was completed); nothing may be pushed after a hit."""
        buffer = self._held + text
        found = ((buffer.find(stop), len(stop)) for stop in self._stops)
        hits = [(place + length, place) for place, length in found if place >= 0]
        if hits:
            self._held = ""
            return buffer[: min(hits)[1]], True
        keep = self._overlap(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], False

    def flush(self) -> str:
        """What was held back, when the output ends without a stop string."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, buffer: str) -> int:
        """Length of the longest end of ``buffer`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(buffer)), 0, -1):
            end = buffer[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
