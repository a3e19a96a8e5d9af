"""Marks every test by its folder, so that `pytest -m contract` and the like work without decoration."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

KINDS = {"unit", "contract", "integration", "faults", "statistical"}
ROOT = Path(__file__).parent


def pytest_sessionstart() -> None:
    """Let no test be blamed for an event loop that nobody closed.

    looptime asks for the current loop around every test that is not async, and before Python 3.14 the first to ask is
    given a new one. Once a loop was set, be it None, who asks gets a ``RuntimeError``, which looptime expects.
    """
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        item.add_marker(folder if folder in KINDS else "unit")
