"""The tail is the budget: sizes of functions and files, without a list of exceptions."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("paceline", "coordinator", "verifier_service", "drafter_service")
FILES = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py") if "v1" not in file.parts]


def _functions() -> list[tuple[int, str]]:
    nodes = [(file, node) for file in FILES for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    return sorted(
        ((node.end_lineno or 0) - node.lineno + 1, f"{file.relative_to(ROOT)}:{node.name}")
        for file, node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_there_is_code_to_measure() -> None:
    assert len(FILES) > 60
    assert len(_functions()) > 300


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert [one for one in _functions() if one[0] > 60] == []


def test_nine_of_ten_functions_have_at_most_thirty_lines() -> None:
    sizes = [size for size, _ in _functions()]
    assert sizes[int(len(sizes) * 0.9)] <= 30


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    long = [file for file in FILES if len(file.read_text("utf-8").splitlines()) > 500]
    assert long == []


def test_servicer_methods_have_at_most_twelve_lines() -> None:
    found = 0
    for file in (one for one in FILES if one.name == "service.py"):
        for cls in (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ClassDef)):
            for method in (node for node in cls.body if isinstance(node, ast.AsyncFunctionDef)):
                found += 1
                assert (method.end_lineno or 0) - method.body[0].lineno + 1 <= 12, (file, method.name)
    assert found >= 7
