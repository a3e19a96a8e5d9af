"""The command line of a service: a file, single settings, and help that names them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.config.arguments import parse
from paceline.config.load import describe
from paceline.config.reference import render
from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings


def read(*argv: str, env: dict[str, str] | None = None) -> VerifierSettings:
    return parse(VerifierSettings, "python -m verifier_service", "Serves.", argv, env or {})


def test_a_file_and_flags_together(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: a\ndtype: float32\n", "utf-8")
    assert read("--config", str(file), "--set", "model=b") == VerifierSettings(model="b", dtype="float32")


def test_the_last_flag_counts_and_a_value_may_hold_an_equals_sign() -> None:
    assert read("--set", "model=a", "--set", "model=b=c").model == "b=c"


@pytest.mark.parametrize("argv", [["--set", "model"], ["--set", "mdel=x"], ["--config", "/nowhere/a.yaml"]])
def test_a_mistake_ends_with_2_and_one_line_that_names_the_program(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    out, err = capsys.readouterr()
    assert (caught.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("python -m verifier_service: ")


def test_a_flag_without_a_value_shows_how_to_write_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--set", "model")
    assert "write key=value, such as server.listen=127.0.0.1:50051" in capsys.readouterr().err


@pytest.mark.parametrize("cls", [CoordinatorSettings, VerifierSettings, DrafterSettings])
def test_help_names_every_setting_with_its_variable_default_and_meaning(
    cls: type[object], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(cls, "python -m service", "Serves.", ["--help"], {})
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "flag --set > environment > file > default" in out
    for doc in describe(cls):
        assert f"  {doc.key} = {doc.default!r}  [{doc.variable}]\n      {doc.doc}\n" in out + "\n"


def test_the_configuration_page_has_a_row_for_every_setting_of_every_process() -> None:
    coordinator, verifier, drafter = render().split("\n## ")[1:]
    for page, cls in ((coordinator, CoordinatorSettings), (verifier, VerifierSettings), (drafter, DrafterSettings)):
        rows = [line.split(" | ")[0].strip("| `") for line in page.splitlines() if line.startswith("| `")]
        assert rows == [doc.key for doc in describe(cls)]
