"""A drafter's needs are data: names of drafting methods stay where drafters are made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {"drafters", "training", "config"}
WORDS = re.compile(r"medusa|\bmtp\b|eagle|gemma", re.IGNORECASE)


@pytest.mark.parametrize("package", ["paceline", "coordinator", "verifier_service", "drafter_service"])
def test_names_of_methods_appear_only_where_drafters_are_made(package: str) -> None:
    files = [file for file in (ROOT / package).rglob("*.py") if not ALLOWED & set(file.parts)]
    assert files
    assert [str(file) for file in files if WORDS.search(file.read_text("utf-8"))] == []


def test_the_environment_is_read_in_few_places() -> None:
    readers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "paceline").rglob("*.py")
        if re.search(r"os\.environ|os\.getenv", file.read_text("utf-8"))
    }
    assert readers == {"paceline/text/resolve.py", "paceline/wire/process.py"}
