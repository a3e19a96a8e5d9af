"""Settings come from flags, environment, file and default, in this order, and a mistake is named with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.config.load import describe, load
from paceline.config.settings import (
    CoordinatorSettings,
    DrafterSettings,
    ServerSettings,
    SyntheticSettings,
    VerifierSettings,
)
from paceline.core.errors import InvalidRequest

FORMATS = ("yaml", "yml", "json", "toml")
PROCESSES = (CoordinatorSettings, VerifierSettings, DrafterSettings)


def written(directory: Path, suffix: str, server: dict[str, Any], top: dict[str, Any] | None = None) -> Path:
    """A file of settings with a ``server`` section."""
    table = {**(top or {}), "server": server}
    file = directory / f"settings.{suffix}"
    if suffix == "toml":
        lines = [f"{name} = {json.dumps(value)}" for name, value in (top or {}).items()]
        lines += ["[server]", *(f"{name} = {json.dumps(value)}" for name, value in server.items())]
        text = "\n".join(lines)
    else:
        text = json.dumps(table) if suffix == "json" else yaml.safe_dump(table)
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("in_file", "in_env", "in_flags"), list(product([False, True], repeat=3)))
def test_flags_win_over_the_environment_and_that_over_the_file_and_that_over_the_default(
    tmp_path: Path, suffix: str, in_file: bool, in_env: bool, in_flags: bool
) -> None:
    settings = load(
        VerifierSettings,
        file=written(tmp_path, suffix, {"max_streams": 11}) if in_file else None,
        env={"PACELINE_SERVER_MAX_STREAMS": "22"} if in_env else {},
        overrides=[("server.max_streams", "33")] if in_flags else [],
    )
    expected = 33 if in_flags else 22 if in_env else 11 if in_file else ServerSettings().max_streams
    assert settings.server.max_streams == expected


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_formats_say_the_same(tmp_path: Path, suffix: str) -> None:
    server = {"listen": "0.0.0.0:7", "reflection": True, "grace_s": 2}
    file = written(tmp_path, suffix, server, {"verifiers": ["a:1", "b:2"], "max_draft": 0})
    assert load(CoordinatorSettings, file=file) == CoordinatorSettings(
        server=ServerSettings(listen="0.0.0.0:7", reflection=True, grace_s=2.0),
        verifiers=("a:1", "b:2"),
        max_draft=0,
    )


def test_a_mode_is_one_of_those_that_there_are() -> None:
    assert load(CoordinatorSettings, overrides=[("mode", "sync")]).mode == "sync"
    with pytest.raises(InvalidRequest, match="mode: 'fast' is no mode; choose one of plain, sync, pipeline, lookahead"):
        load(CoordinatorSettings, overrides=[("mode", "fast")])


@pytest.mark.parametrize("cls", PROCESSES)
def test_nothing_given_gives_the_defaults(cls: type[Any]) -> None:
    assert load(cls) == cls()


def test_one_setting_of_a_section_leaves_the_defaults_of_its_owner_to_the_others() -> None:
    settings = load(CoordinatorSettings, overrides=[("server.grace_s", "1")])
    assert settings.server == ServerSettings(listen="127.0.0.1:50051", grace_s=1.0)


def test_sections_are_told_apart() -> None:
    settings = load(VerifierSettings, overrides=[("synthetic.vocab_size", "7"), ("server.log_level", "debug")])
    assert settings.synthetic == SyntheticSettings(vocab_size=7)
    assert settings.server == ServerSettings(log_level="debug")


@pytest.mark.parametrize("word", ["true", "True", "1", "yes"])
def test_words_for_true(word: str) -> None:
    assert load(VerifierSettings, overrides=[("server.reflection", word)]).server.reflection is True


@pytest.mark.parametrize("word", ["false", "FALSE", "0", "no"])
def test_words_for_false(word: str) -> None:
    assert load(VerifierSettings, env={"PACELINE_SERVER_REFLECTION": word}).server.reflection is False


@pytest.mark.parametrize(
    ("text", "expected"), [("a:1", ("a:1",)), ("a:1,b:2", ("a:1", "b:2")), (" a:1 , b:2,", ("a:1", "b:2")), ("", ())]
)
def test_a_list_is_written_with_commas(text: str, expected: tuple[str, ...]) -> None:
    assert load(CoordinatorSettings, env={"PACELINE_VERIFIERS": text}).verifiers == expected


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("max_sessions", "many", "a whole number"),
        ("max_sessions", "1.5", "a whole number"),
        ("max_sessions", "", "a whole number"),
        ("server.grace_s", "soon", "a number"),
        ("server.reflection", "maybe", "true or false"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_with_its_source(key: str, value: str, kind: str) -> None:
    variable = f"PACELINE_{key.replace('.', '_').upper()}"
    with pytest.raises(InvalidRequest) as by_flag:
        load(VerifierSettings, overrides=[(key, value)])
    with pytest.raises(InvalidRequest) as by_variable:
        load(VerifierSettings, env={variable: value})
    assert str(by_flag.value) == f"flag: {key} must be {kind}, got {value!r}."
    assert str(by_variable.value) == f"environment {variable}: {key} must be {kind}, got {value!r}."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_sessions: 1.5", "max_sessions must be a whole number, got 1.5"),
        ("max_sessions: true", "max_sessions must be a whole number, got True"),
        ("model: 5", "model must be text, got 5"),
        ("model:", "model must be text, got None"),
        ("server: {grace_s: false}", r"server\.grace_s must be a number, got False"),
        ("server: {reflection: 2}", r"server\.reflection must be true or false, got 2"),
    ],
)
def test_a_value_of_a_wrong_kind_in_a_file_is_refused_with_the_file(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(InvalidRequest, match=f"^file {file}: {message}"):
        load(VerifierSettings, file=file)


def test_a_single_value_where_a_list_belongs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"verifiers": 5}', "utf-8")
    with pytest.raises(InvalidRequest, match="verifiers must be a list, got 5"):
        load(CoordinatorSettings, file=file)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_sesions", "did you mean max_sessions?"),
        ("server.listn", "did you mean server.listen?"),
        ("listen", "did you mean server.listen?"),
        ("zzz", "see --help for all settings."),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_one(tmp_path: Path, key: str, hint: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({key: "1"}), "utf-8")
    for source, options in (("flag", {"overrides": [(key, "1")]}), (f"file {file}", {"file": file})):
        with pytest.raises(InvalidRequest) as caught:
            load(VerifierSettings, **options)  # type: ignore[arg-type]
        assert str(caught.value) == f"{source}: there is no setting {key!r}; {hint}"


def test_an_unknown_variable_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(VerifierSettings, env={"PACELINE_MAX_SESIONS": "1"})
    assert str(caught.value) == "environment: PACELINE_MAX_SESIONS is no setting; did you mean PACELINE_MAX_SESSIONS?"


def test_variables_of_other_processes_and_other_programs_are_left_alone() -> None:
    env = {"PACELINE_VERIFIERS": "a:1", "PACELINE_DRAFTER": "ngram", "PACELINE_CACHE": "/x", "PATH": "/bin"}
    assert load(VerifierSettings, env=env) == VerifierSettings()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", b"a: [", "is not valid"),
        ("a.json", b"{", "is not valid"),
        ("a.toml", b"a = ", "is not valid"),
        ("a.yaml", b"\xff\xfe\xff", "is not valid"),
        ("a.toml", b"model = '\xff'", "is not valid"),
        ("a.yaml", b"", "must hold a table"),
        ("a.json", b"[1]", "must hold a table"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_with_its_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"^config: {tmp_path / name} {message}") as caught:
        load(VerifierSettings, file=tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=rf"^config: can't read {tmp_path / 'a.yaml'}: No such file"):
        load(VerifierSettings, file=tmp_path / "a.yaml")


NUMBERS = [(cls, doc) for cls in PROCESSES for doc in describe(cls) if doc.kind in (int, float)]
MAY_BE_ZERO = {
    "threads", "max_draft", "window", "server.grace_s",
    "synthetic.step_base_s", "synthetic.step_row_s", "synthetic.agreement", "synthetic.model_seed", "fan_out",
    "synthetic.alternatives", "synthetic.hit", "synthetic.step_kv_s",
    "synthetic.call_base_s", "synthetic.call_token_s", "synthetic.call_row_s",
}  # fmt: skip


@pytest.mark.parametrize(("cls", "doc"), NUMBERS, ids=[f"{cls.__name__}.{doc.key}" for cls, doc in NUMBERS])
def test_no_number_may_be_negative_endless_or_zero_where_zero_makes_no_sense(cls: type[Any], doc: Any) -> None:
    bad = ["-1", str(2**31)] if doc.kind is int else ["-0.1", "inf", "nan"]
    bad += [] if doc.key in MAY_BE_ZERO else ["0"]
    for value in bad:
        with pytest.raises(InvalidRequest, match=rf"^{doc.key}: "):
            load(cls, overrides=[(doc.key, value)])
    if doc.key in MAY_BE_ZERO:
        load(cls, overrides=[(doc.key, "0")])


def test_a_chance_is_at_most_1() -> None:
    assert load(DrafterSettings, overrides=[("synthetic.agreement", "1")]).synthetic.agreement == 1.0
    with pytest.raises(InvalidRequest, match=r"synthetic\.agreement: 1\.1 is a chance; it must be at most 1"):
        load(DrafterSettings, overrides=[("synthetic.agreement", "1.1")])


@pytest.mark.parametrize("cls", PROCESSES)
def test_every_setting_is_documented_and_its_default_is_the_one_in_use(cls: type[Any]) -> None:
    docs = describe(cls)
    assert len({doc.key for doc in docs}) == len(docs) > 10
    assert [doc.key for doc in docs if len(doc.doc) < 8] == []
    for doc in docs:
        owner: Any = cls()
        for name in doc.key.split("."):
            owner = getattr(owner, name)
        assert doc.default == owner, doc.key


def test_a_default_that_its_owner_changes_is_shown_as_changed() -> None:
    defaults = {cls: {doc.key: doc.default for doc in describe(cls)}["server.listen"] for cls in PROCESSES}
    assert defaults[CoordinatorSettings] == "127.0.0.1:50051"
    assert defaults[VerifierSettings] == "127.0.0.1:0"


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(AttributeError):
        load(VerifierSettings).model = "other"  # type: ignore[misc]


def test_the_password_of_the_store_is_not_shown_with_the_settings() -> None:
    settings = load(CoordinatorSettings, env={"PACELINE_STORE": "redis://:hunter2@host/0"})
    assert settings.store == "redis://:hunter2@host/0"
    assert "hunter2" not in repr(settings)


@dataclass(frozen=True, slots=True)
class Plain:
    """A class of settings without a section."""

    name: str = "x"
    """Its name,
    told in two lines."""


def test_the_text_below_a_field_is_its_documentation_in_one_line() -> None:
    (doc,) = describe(Plain)
    assert (doc.key, doc.variable, doc.default, doc.doc) == (
        "name",
        "PACELINE_NAME",
        "x",
        "Its name, told in two lines.",
    )
