"""A model's template is foreign code: it may render a conversation, and nothing else."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest
from paceline.text.chat import ChatTemplate, load_chat_template

HELLO = [("user", "hello")]


def render(source: str) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(HELLO)


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages[0]['role']|attr('__class__') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% if ''.__class__ is defined %}x{% endif %}",
        "{{ messages.append(1) }}",
        "{{ messages.pop() }}",
        "{% import 'os' as os %}{{ os }}",
        "{% include '/etc/passwd' %}",
        "{% extends 'x' %}",
        "{{ range(10 ** 9) | length }}",
        "{{ 1 / 0 }}",
        "{{ messages[5].content }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_refused(hostile: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^chat: the model's template refuses this conversation"):
        render(hostile)


def test_a_template_that_does_not_compile_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(InvalidRequest, match="does not compile"):
        ChatTemplate("{% for x in y", {})


def test_a_template_gives_its_own_reason_for_refusing() -> None:
    with pytest.raises(InvalidRequest, match="only one turn, please"):
        render("{{ raise_exception('only one turn, please') }}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>hello"),
        ("{{ messages[0]['role'] | tojson }}", '"user"'),
        ("{{ 'ö<' | tojson }}", '"ö<"'),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{{ eos_token }}", ""),
    ],
)
def test_a_template_sees_the_conversation_and_the_special_tokens(source: str, expected: str) -> None:
    assert render(source) == expected


def test_a_template_may_ask_for_the_date() -> None:
    years = {str(datetime.now().year)}
    shown = render("{{ strftime_now('%Y') }}")
    assert shown in years | {str(datetime.now().year)}


def write(directory: Path, config: bytes | None = None, template: bytes | None = None) -> Path:
    for name, content in (("tokenizer_config.json", config), ("chat_template.jinja", template)):
        if content is not None:
            (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    "config",
    [
        None,
        b"{}",
        b'{"chat_template": ""}',
        b'{"chat_template": null}',
        b'{"chat_template": 5}',
        b'{"chat_template": []}',
        b'{"chat_template": ["x", {"template": "x"}]}',
        b'{"chat_template": [{"name": "default"}]}',
        b'{"chat_template": [{"name": "tools", "template": "x"}]}',
    ],
)
def test_a_model_without_a_usable_template_has_none(tmp_path: Path, config: bytes | None) -> None:
    assert load_chat_template(write(tmp_path, config)) is None


@pytest.mark.parametrize(
    ("config", "reason"), [(b"{", "is not JSON"), (b"[1]", "must hold an object"), (b'"\xff"', "Can't read")]
)
def test_a_broken_configuration_is_refused_with_its_file(tmp_path: Path, config: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=r"tokenizer_config\.json.*") as caught:
        load_chat_template(write(tmp_path, config))
    assert reason in str(caught.value)


def test_a_template_file_that_is_not_text_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"Can't read .*chat_template\.jinja"):
        load_chat_template(write(tmp_path, b"{}", b"\xff\xfe"))


def test_special_tokens_may_be_text_or_described(tmp_path: Path) -> None:
    config = b'{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "chat_template": "%s"}'
    source = b"{{ bos_token }}|{{ eos_token }}|{{ pad_token }}"
    template = load_chat_template(write(tmp_path, config % source))
    assert template is not None
    assert template.render(HELLO) == "<s>|</s>|"
