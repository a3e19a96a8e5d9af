"""All tests here compute in one thread."""

from __future__ import annotations

from support.one_thread import one_thread

__all__ = ["one_thread"]
