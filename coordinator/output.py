"""Tokens to what a client may see: text in whole characters, cut before the first stop string. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.core.types import FinishReason, Tokens
from paceline.text.detokenizer import Detokenizer
from paceline.text.stops import StopStrings
from paceline.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """What some committed tokens mean for the client."""

    token_ids: Tokens
    """The tokens up to the one that completed a stop string: nothing after it exists."""
    text: str
    finish: FinishReason | None


class OutputText:
    """One request's output; without a tokenizer there are only token ids."""

    def __init__(self, tokenizer: Tokenizer | None, stops: tuple[str, ...]) -> None:
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._stops = StopStrings(stops)
        self._has_stops = bool(stops)

    def push(self, token_ids: Tokens, finish: FinishReason | None) -> Piece:
        """The next committed tokens; ``finish`` is the verifier's. A stop id itself has no text."""
        if self._detokenizer is None:
            return Piece(token_ids, "", finish)
        shown = token_ids[:-1] if finish is FinishReason.STOP else token_ids
        kept, text, hit = self._advance(self._detokenizer, shown)
        if hit:
            return Piece(token_ids[:kept], text, FinishReason.STOP)
        if finish is None:
            return Piece(token_ids, text, None)
        rest, hit = self._stops.push(self._detokenizer.flush())
        tail = rest if hit else rest + self._stops.flush()
        return Piece(token_ids, text + tail, FinishReason.STOP if hit else finish)

    def _advance(self, detokenizer: Detokenizer, token_ids: Tokens) -> tuple[int, str, bool]:
        """(tokens used, text to show, stop string completed)."""
        if not self._has_stops:
            return len(token_ids), detokenizer.push(token_ids), False
        shown = ""
        for used, token in enumerate(token_ids, start=1):
            text, hit = self._stops.push(detokenizer.push((token,)))
            shown += text
            if hit:
                return used, shown, True
        return len(token_ids), shown, False
