"""Sessions in Redis or Valkey: four Lua scripts, each atomic; the only door to Redis."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from redis import asyncio as redis
from redis import exceptions

from paceline.core.errors import Internal, InvalidRequest, PacelineError, ResourceExhausted, StoreUnavailable
from paceline.core.ports import NewSession, SessionRecord
from paceline.core.types import FinishReason, Tokens
from paceline.store import memory
from paceline.store.keys import STATES, TERMINAL_TTL_S, keys, pack, unpack

TIMEOUT_S = 2.0
"""Of one command; the caller decides about another attempt."""
_AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterError,
    exceptions.TryAgainError,
)
_NOT_NOW = ("BUSY", "MISCONF", "NOREPLICAS")
"""Replies of a server that will take the same command later."""


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
        except ValueError:
            # Its text may hold a part of the password, so it is not passed on.
            raise InvalidRequest(f"store: {mask(url)} is no URL such as redis://user:password@host:6379/0.") from None
        store = cls(client, mask(url))
        try:
            await client.ping()
        except exceptions.RedisError as error:
            await client.aclose()
            raise store._refused(error) from error
        return store

    def _refused(self, error: exceptions.RedisError) -> PacelineError:
        if isinstance(error, exceptions.AuthenticationError):
            return InvalidRequest(
                f"store: {self.address} does not accept the user and password of this URL, or the lack of them; "
                "correct the store setting."
            )
        return self._unavailable(error)

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
        except exceptions.RedisError as error:
            raise self._error(script, error) from error
        return reply

    def _error(self, script: str, error: exceptions.RedisError) -> PacelineError:
        if isinstance(error, exceptions.OutOfMemoryError):
            return ResourceExhausted(f"The session store at {self.address} is full; try later, or raise its maxmemory.")
        if isinstance(error, _AWAY) or str(error).startswith(_NOT_NOW):
            return self._unavailable(error)
        return Internal(f"The store at {self.address} refused {script}: {error}.")

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        reason = str(error).rstrip(".")
        return StoreUnavailable(
            f"Can't use the session store at {self.address}: {reason}. Is Redis or Valkey running there?"
        )


def mask(url: str) -> str:
    """The URL without its password, wherever a URL can have one; also for what is no URL at all."""
    hidden = re.sub(r"^(\w+://[^/?#:]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]password=)[^&#]*", r"\1***", hidden)


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
