"""Session stores behind ``core.ports.SessionStore``: this process's memory, or Redis/Valkey shared by coordinators."""

from __future__ import annotations

from paceline.core.errors import InvalidRequest
from paceline.core.ports import SessionStore


async def open_store(url: str) -> SessionStore:
    """``memory:``, or a redis://, rediss:// or unix:// URL. Raises ``StoreUnavailable`` when nobody answers there."""
    if url == "memory:":
        from paceline.store.memory import MemoryStore

        return MemoryStore()
    if url.startswith(("redis://", "rediss://", "unix://")):
        from paceline.store.redis import RedisStore

        return await RedisStore.connect(url)
    raise InvalidRequest(f"store: {url!r} is no store; use memory:, or a redis://, rediss:// or unix:// URL.")
