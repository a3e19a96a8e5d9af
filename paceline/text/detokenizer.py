"""Text out of tokens as they come: never half a character, and in sum exactly ``Tokenizer.decode`` of all of them.

What surprised us: a run of byte-fallback tokens (``<0xE2>``) decodes all or nothing, so it waits for its end; and
decoders strip a leading space of whatever they see first, so later pieces are decoded behind a known token.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.text.tokenizer import Tokenizer

_PARTIAL = "\ufffd"
_MANY = 8
"""Tokens that wait at most while their text ends in U+FFFD; an unfinished character has at most three bytes."""


class Detokenizer:
    """One output's text, incrementally."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = tokenizer.byte_ids
        self._anchor: tuple[int, ...] = ()
        self._anchor_length = 0
        self._waiting: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._waiting += [token for token in ids if not self._tokenizer.is_silent(token)]
        if not self._waiting or self._waiting[-1] in self._bytes:
            return ""
        text = self._text(self._waiting)
        if text and not text.endswith(_PARTIAL):
            return self._release(len(self._waiting), text)
        return self._release_settled(text) if len(self._waiting) > _MANY else ""

    def flush(self) -> str:
        """What still waits, at the end of the output."""
        return self._release(len(self._waiting), self._text(self._waiting))

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._anchor, *ids])[self._anchor_length :]

    def _release(self, count: int, text: str) -> str:
        del self._waiting[:count]
        if text and not self._anchor:
            self._anchor = self._tokenizer.anchor
            self._anchor_length = len(self._tokenizer.decode(self._anchor))
        return text

    def _release_settled(self, text: str) -> str:
        """Cut at the last place where both sides decode to the whole: no later token can change what is before it."""
        for cut in range(len(self._waiting) - 1, 0, -1):
            head = self._text(self._waiting[:cut])
            tail = self._tokenizer.decode([*self._tokenizer.anchor, *self._waiting[cut:]])
            if head and head + tail[len(self._tokenizer.decode(self._tokenizer.anchor)) :] == text:
                return self._release(cut, head)
        return ""
