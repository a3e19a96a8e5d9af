"""Habits that no other tool checks: how tests are laid out and what they never do, how modules log."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("paceline", "coordinator", "verifier_service", "drafter_service")
SOURCES = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py")) if "v1" not in file.parts]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
SKIPS = re.compile(r"\bpytest\.(?:skip|mark\.skip|mark\.skipif|mark\.xfail|xfail|importorskip)\b")


def names(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def test_there_are_files_to_look_at() -> None:
    assert len(SOURCES) > 80
    assert len(TESTS) > 40


def test_folders_of_unit_tests_have_the_names_of_packages() -> None:
    rooms = {file.parent.name for file in SOURCES}
    folders = {file.parent.name for file in TESTS if file.parent.parent == ROOT / "tests" / "unit"}
    assert folders - rooms == set()


def test_every_test_module_says_what_it_specifies() -> None:
    assert names([file for file in TESTS if not ast.get_docstring(ast.parse(file.read_text("utf-8")))]) == []


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    others = [file for file in TESTS if file != Path(__file__)]
    assert names([file for file in others if SKIPS.search(file.read_text("utf-8"))]) == []


@pytest.mark.parametrize("room", ["unit", "contract"])
def test_no_fast_test_blocks_on_the_clock(room: str) -> None:
    """Such a sleep is a guess about somebody's speed."""
    files = [file for file in TESTS if ROOT / "tests" / room in file.parents]
    assert files
    assert names([file for file in files if "time.sleep(" in file.read_text("utf-8")]) == []


def test_every_logger_is_named_after_its_module() -> None:
    calls = [
        (str(file.relative_to(ROOT)), argument)
        for file in SOURCES
        for argument in re.findall(r"logging\.getLogger\(([^)]*)\)", file.read_text("utf-8"))
    ]
    assert len(calls) >= 4
    assert [call for call in calls if call[1] != "__name__"] == []


def test_every_lua_script_opens_with_its_contract() -> None:
    scripts = sorted((ROOT / "paceline" / "store" / "lua").glob("*.lua"))
    assert [script.stem for script in scripts] == ["cancel", "commit", "create", "read"]
    for script in scripts:
        head = [line for line in script.read_text("utf-8").splitlines() if not line.startswith("#!")]
        contract = "\n".join(line for line in head if line.startswith("--"))
        assert head[0].startswith(f"-- {script.name}: ")
        assert "-- KEYS[1] " in contract
        assert "-- returns " in contract
        assert len(head) <= 30
