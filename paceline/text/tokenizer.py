"""Text to token ids and back, over the ``tokenizers`` library; no torch, no transformers.

Used by the coordinator for prompts and output, and by every process for the vocabulary digest that tells whether
two parties speak of the same ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from paceline.core.errors import InvalidRequest, NotFound, Unsupported
from paceline.core.types import Tokens
from paceline.text.chat import ChatTemplate, load_chat_template


class Tokenizer:
    """A model's tokenizer with its chat template."""

    def __init__(self, backend: tokenizers.Tokenizer, template: ChatTemplate | None = None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._template = template

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """From a model directory, or from a ``tokenizer.json`` itself."""
        return cls(_read(path), load_chat_template(path if path.is_dir() else path.parent))

    def encode(self, text: str) -> Tokens:
        """Raw text, with the special tokens that the model's tokenizer puts around any text."""
        return tuple(self._backend.encode(text).ids)

    def chat(self, messages: Sequence[tuple[str, str]]) -> Tokens:
        """A conversation of (role, content), rendered by the model's template up to the assistant's turn."""
        if self._template is None:
            raise Unsupported("chat: this model has no chat template; send text or token ids instead.")
        if not messages:
            raise InvalidRequest("chat: the conversation is empty; send at least one message.")
        return tuple(self._backend.encode(self._template.render(messages), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of all ids but special tokens; ids that the vocabulary lacks are skipped."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Conversations can be rendered."""
        return self._template is not None

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token with its id, added ones included."""
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

    @cached_property
    def vocab_size(self) -> int:
        """Ids are below this."""
        return max(self.vocabulary.values(), default=-1) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary: equal digests mean the same ids for the same tokens."""
        return _digest(self.vocabulary)

    def is_silent(self, token: int) -> bool:
        """Special tokens and ids that the vocabulary lacks have no text."""
        return token in self._specials or self._backend.id_to_token(token) is None

    @cached_property
    def _specials(self) -> frozenset[int]:
        added = self._backend.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens such as ``<0xE2>`` that decode in runs, all or nothing; empty without byte fallback."""
        if '"ByteFallback"' not in json.dumps(json.loads(self._backend.to_str()).get("decoder")):
            return frozenset()
        spellings = {f"<0x{byte:02X}>" for byte in range(256)} | {f"<0x{byte:02x}>" for byte in range(256)}
        return frozenset(self.vocabulary[text] for text in spellings & self.vocabulary.keys())

    @cached_property
    def anchor(self) -> Tokens:
        """A token with visible text: what is decoded behind it is not mistaken for the start of a text."""
        likely = [index for index in self._backend.encode("a", add_special_tokens=False).ids if self._is_visible(index)]
        rest = (index for index in sorted(self.vocabulary.values()) if self._is_visible(index))
        return (likely[0],) if likely else tuple(next(((index,) for index in rest), ()))

    def _is_visible(self, index: int) -> bool:
        text = self.decode([index])
        return index not in self.byte_ids and bool(text.strip()) and "\ufffd" not in text


def vocabulary_digest(path: Path) -> str:
    """The ``digest`` of the tokenizer at ``path`` (a model directory or a ``tokenizer.json``)."""
    return _digest(_read(path).get_vocab(with_added_tokens=True))


def _digest(vocabulary: Mapping[str, int]) -> str:
    rows = sorted((index, token) for token, index in vocabulary.items())
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()


def _read(path: Path) -> tokenizers.Tokenizer:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise NotFound(f"No tokenizer at {file}; point the tokenizer setting at a directory with tokenizer.json.")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise InvalidRequest(f"{file} is not a tokenizer that the tokenizers library reads: {error}.") from error
