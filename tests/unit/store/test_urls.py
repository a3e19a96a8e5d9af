"""A store's URL is checked before anybody is asked, and its password is never shown."""

from __future__ import annotations

import pytest

from paceline.core.errors import InvalidRequest
from paceline.store import open_store
from paceline.store.memory import MemoryStore
from paceline.store.redis import mask


async def test_the_memory_store_needs_no_server() -> None:
    assert isinstance(await open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["", "memory", "redis", "localhost:6379", "http://localhost:6379", "REDIS://h"])
async def test_what_is_no_store_is_refused_with_those_that_are(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^store: .* use memory:, or a redis://, rediss:// or unix:// URL"):
        await open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "redis://:hunt/er2@host/0",
        "redis://u:hunter2@[::1/0",
        "redis://:hunter2@h/x?db=y",
    ],
)
async def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is no URL such as redis://user:password@host") as caught:
        await open_store(url)
    assert "hunt" not in str(caught.value)
    assert "er2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:pw@host", "redis://:***@host"),
        ("rediss://user:pw@host:1/2?ssl_cert_reqs=none", "rediss://user:***@host:1/2?ssl_cert_reqs=none"),
        ("redis://user@host", "redis://user@host"),
        ("redis://:p:w@x@host/0", "redis://:***@host/0"),
        ("redis://:a/b?c#d@host/0", "redis://:***@host/0"),
        ("unix://:pw@/run/redis.sock?db=1", "unix://:***@/run/redis.sock?db=1"),
        ("redis://host?password=pw&db=1", "redis://host?password=***&db=1"),
        ("redis://host?db=1&password=pw", "redis://host?db=1&password=***"),
    ],
)
def test_a_password_is_masked_wherever_a_url_can_have_one(url: str, shown: str) -> None:
    assert mask(url) == shown
