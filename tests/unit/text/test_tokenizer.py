"""Prompts, chat templates, digests and what happens to broken files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest, NotFound, Unsupported
from paceline.text.tokenizer import Tokenizer, vocabulary_digest


def test_a_directory_or_its_file_load_the_same_tokenizer(model_directory: Path) -> None:
    whole, file = Tokenizer.load(model_directory), Tokenizer.load(model_directory / "tokenizer.json")
    assert whole.encode("Hello wörld") == file.encode("Hello wörld")
    assert whole.decode(whole.encode("Hello wörld")) == "Hello wörld"
    assert file.has_chat_template


def test_a_conversation_is_rendered_by_the_models_template(model_directory: Path) -> None:
    tokenizer = Tokenizer.load(model_directory)
    ids = tokenizer.chat([("system", "short"), ("user", "hi")])
    assert ids[0] == tokenizer.vocabulary["<s>"]
    assert tokenizer.decode(ids) == "system: short\nuser: hi\nassistant:"


def test_a_template_file_wins_over_the_configuration(model_directory: Path) -> None:
    template = "{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% break %}{% endfor %}"
    (model_directory / "chat_template.jinja").write_text(template, "utf-8")
    tokenizer = Tokenizer.load(model_directory)
    assert tokenizer.decode(tokenizer.chat([("user", "one"), ("user", "two")])) == "[one]"


def test_a_named_default_template_is_found(model_directory: Path) -> None:
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages[0]['role'] | tojson }}"}]
    (model_directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), "utf-8")
    tokenizer = Tokenizer.load(model_directory)
    assert tokenizer.decode(tokenizer.chat([("user", "x")])) == '"user"'


def test_a_template_that_refuses_gives_its_own_reason(model_directory: Path) -> None:
    with pytest.raises(InvalidRequest, match="no tools here"):
        Tokenizer.load(model_directory).chat([("tool", "x")])


@pytest.mark.parametrize("hostile", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% for x in y"])
def test_a_hostile_or_broken_template_is_refused(model_directory: Path, hostile: str) -> None:
    (model_directory / "chat_template.jinja").write_text(hostile, "utf-8")
    with pytest.raises(InvalidRequest, match="template"):
        Tokenizer.load(model_directory).chat([("user", "x")])


def test_without_a_template_chat_is_unsupported(model_directory: Path) -> None:
    (model_directory / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.load(model_directory)
    assert not tokenizer.has_chat_template
    with pytest.raises(Unsupported, match="send text"):
        tokenizer.chat([("user", "x")])


def test_an_empty_conversation_is_refused(model_directory: Path) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        Tokenizer.load(model_directory).chat([])


def test_the_digest_tells_vocabularies_apart(model_directory: Path) -> None:
    before = vocabulary_digest(model_directory)
    assert before == Tokenizer.load(model_directory).digest
    file = model_directory / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 321, "content": "<new>"})
    file.write_text(json.dumps(content), "utf-8")
    assert vocabulary_digest(model_directory) != before


def test_truncation_and_padding_in_the_file_do_not_shorten_prompts(model_directory: Path) -> None:
    file = model_directory / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(content), "utf-8")
    assert len(Tokenizer.load(model_directory).encode("Hello wörld, a cat")) > 2


def test_a_missing_tokenizer_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"model": {"type": "Nobody"}}'])
def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    for load in (Tokenizer.load, vocabulary_digest):
        with pytest.raises(InvalidRequest, match=r"tokenizer\.json is not a tokenizer"):
            load(tmp_path)
