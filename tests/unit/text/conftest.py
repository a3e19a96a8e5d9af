"""Small tokenizers of the kinds that models use, built on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from paceline.text.tokenizer import Tokenizer

CORPUS = [
    "Hello wörld, a cat sat on the mat. Grüße, naïve café!",
    "def f(x):\n    return x + 1\n",
    "日本語 emoji 👩‍🚀 done",
] * 3


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3, Qwen and SmolLM: characters may be split over tokens."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    built.add_tokens(["plain added"])
    return built


def sentencepiece(extra: tuple[str, ...] = ()) -> tokenizers.Tokenizer:
    """As Llama 2 and Gemma: leading spaces are part of tokens, rare characters fall back to bytes."""
    words = ["▁", "▁a", "▁Hello", "a", "b", "▁world", "ö", "▁▁", "x", ".", "\ufffd", *extra]
    vocab = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>"])}
    for token in [f"<0x{byte:02X}>" for byte in range(256)] + words:
        vocab[token] = len(vocab)
    built = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    built.add_special_tokens(["<unk>", "<s>", "</s>"])
    return built


def metaspace() -> tokenizers.Tokenizer:
    """As T5: the decoder drops the space of the very first token only."""
    vocab = {token: index for index, token in enumerate(["<unk>", "</s>", "▁", "▁a", "b", "▁b", "c", "▁▁c"])}
    built = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Metaspace()
    built.add_special_tokens(["<unk>", "</s>"])
    return built


BUILDERS = {"byte level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace}


@pytest.fixture(scope="session", params=list(BUILDERS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(BUILDERS[request.param]())


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}\n"
        "    {% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\n"
        "{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return Tokenizer(byte_level())
