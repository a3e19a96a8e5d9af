"""Tests leak no event loop: the garbage collector would blame whichever test runs at the time."""

from __future__ import annotations

import asyncio

import pytest


def test_a_test_that_is_not_async_has_no_event_loop() -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_event_loop()
