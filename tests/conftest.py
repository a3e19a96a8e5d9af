"""Marks every test by its folder, so that `pytest -m contract` and the like work without decoration."""

from __future__ import annotations

from pathlib import Path

import pytest

KINDS = {"unit", "contract", "integration", "faults", "statistical"}
ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        item.add_marker(folder if folder in KINDS else "unit")
