"""Sessions in Redis or Valkey: four Lua scripts, each atomic; the only door to Redis."""

from __future__ import annotations

from importlib import resources
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import asyncio as redis
from redis import exceptions

from paceline.core.errors import Internal, InvalidRequest, StoreUnavailable
from paceline.core.ports import NewSession, SessionRecord
from paceline.core.types import FinishReason, Tokens
from paceline.store import memory
from paceline.store.keys import STATES, TERMINAL_TTL_S, keys, pack, unpack

TIMEOUT_S = 2.0
"""Of one command; the caller decides about another attempt."""
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.BusyLoadingError, exceptions.ReadOnlyError)


def _script(name: str) -> str:
    return resources.files("paceline.store").joinpath("lua", f"{name}.lua").read_text("utf-8")


class RedisStore:
    """``core.ports.SessionStore`` over one connection pool."""

    def __init__(self, client: redis.Redis, address: str) -> None:
        self.address = address
        self._client = client
        self._scripts = {name: client.register_script(_script(name)) for name in ("create", "commit", "cancel", "read")}

    def __repr__(self) -> str:
        return f"RedisStore({self.address!r})"

    @classmethod
    async def connect(cls, url: str) -> RedisStore:
        """Raises ``StoreUnavailable`` when nobody answers, ``InvalidRequest`` for a URL that is none."""
        try:
            client = redis.Redis.from_url(
                url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S, decode_responses=False
            )
        except ValueError as error:
            raise InvalidRequest(f"store: {mask(url)} is not a Redis URL: {error}.") from error
        store = cls(client, mask(url))
        try:
            await client.ping()
        except exceptions.RedisError as error:
            await client.aclose()
            raise store._unavailable(error) from error
        return store

    async def create(self, new: NewSession) -> SessionRecord:
        """See the port."""
        arguments = (
            new.fingerprint,
            new.owner,
            new.nonce,
            _milliseconds(new.lease_s),
            _milliseconds(new.ttl_s),
            new.max_tokens,
            new.seed,
            new.model_digest,
            new.numerics_id,
            pack(new.prompt),
        )
        code, *rest = await self._run("create", new.session, *arguments)
        if code == b"CONFLICT":
            raise memory.conflict(new.session)
        return _record(new.session, rest)

    async def commit(
        self, session: str, epoch: int, nonce: str, *, base: int, tokens: Tokens, finish: FinishReason | None
    ) -> int:
        """See the port."""
        ttl = _milliseconds(TERMINAL_TTL_S)
        code, *rest = await self._run("commit", session, epoch, nonce, base, pack(tokens), STATES[finish], ttl)
        match code:
            case b"OK":
                return int(rest[0])
            case b"ENDED":
                raise memory.ended(session, rest[0].decode())
            case b"NOSESSION":
                raise memory.missing(session)
            case b"DIVERGED":
                raise memory.diverged(session)
            case b"FENCED":
                raise memory.fenced(session)
            case b"GAP":
                raise memory.gap(session, base, int(rest[0]))
            case _:
                raise memory.too_long(session, base + len(tokens), int(rest[0]))

    async def cancel(self, session: str, reason: str) -> SessionRecord:
        """See the port."""
        code, *rest = await self._run("cancel", session, reason, _milliseconds(TERMINAL_TTL_S))
        if code == b"NOSESSION":
            raise memory.missing(session)
        return _record(session, rest)

    async def read(self, session: str) -> SessionRecord:
        """See the port."""
        code, *rest = await self._run("read", session)
        if code == b"NOSESSION":
            raise memory.missing(session)
        return _record(session, rest)

    async def close(self) -> None:
        """Release the connections."""
        await self._client.aclose()

    async def _run(self, script: str, session: str, *arguments: str | bytes | int) -> list[Any]:
        try:
            reply: list[Any] = await self._scripts[script](keys=keys(session), args=arguments)
        except _AWAY as error:
            raise self._unavailable(error) from error
        except exceptions.RedisError as error:
            raise Internal(f"The store at {self.address} refused {script}: {error}.") from error
        return reply

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"Can't use the session store at {self.address}: {error}. Is Redis or Valkey running there?"
        )


def mask(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _record(session: str, reply: list[Any]) -> SessionRecord:
    state, epoch, tokens, max_tokens, fingerprint, reason = reply
    return SessionRecord(
        session,
        state.decode(),
        int(epoch),
        unpack(tokens),
        int(max_tokens),
        fingerprint.decode(),
        reason.decode(),
    )
