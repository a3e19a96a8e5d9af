"""A tokenizer in which every token is one letter: text can be read off token ids, and the other way round."""

from __future__ import annotations

import string

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from paceline.text.chat import ChatTemplate
from paceline.text.tokenizer import Tokenizer

LETTERS = string.ascii_letters + string.digits + ". "
CHAT = "{% for message in messages %}{{ message.role }} {{ message.content }}. {% endfor %}assistant "


def letters(template: str | None = None) -> Tokenizer:
    """Token i is ``LETTERS[i]``; ``CHAT`` is a template for it."""
    backend = tokenizers.Tokenizer(models.WordLevel({letter: index for index, letter in enumerate(LETTERS)}, " "))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend, ChatTemplate(template, {}) if template else None)
