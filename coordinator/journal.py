"""A session's log in the store: appended in order, retried while the store is away, never shown before it is there."""

from __future__ import annotations

import asyncio
import secrets

from coordinator.requests import Admitted
from paceline.core.errors import Gap, NotFound, StoreUnavailable
from paceline.core.ports import NewSession, SessionStore
from paceline.core.types import FinishReason, Tokens

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0


class Journal:
    """The writer of one session."""

    def __init__(self, store: SessionStore, admitted: Admitted, owner: str) -> None:
        self._store = store
        self._admitted = admitted
        self._owner = owner
        self._nonce = secrets.token_hex(16)
        self._epoch = 0
        self._tokens: list[int] = []
        self._abandoned = asyncio.Event()
        self.is_waiting = False
        """The store did not answer the last attempt."""

    @property
    def num_tokens(self) -> int:
        """Output tokens that the store has."""
        return len(self._tokens)

    async def create(self) -> None:
        """Raises ``StoreUnavailable`` at once: nothing was promised to the client yet."""
        admitted = self._admitted
        record = await self._store.create(
            NewSession(
                session=admitted.session,
                fingerprint=admitted.fingerprint,
                owner=self._owner,
                nonce=self._nonce,
                max_tokens=admitted.stops.max_tokens,
                seed=admitted.sampling.seed,
                model_digest=admitted.verifier.model_digest,
                numerics_id=admitted.verifier.numerics_id,
                prompt=admitted.prompt,
            )
        )
        self._epoch = record.epoch

    async def append(self, tokens: Tokens, finish: FinishReason | None) -> bool:
        """True once the store has them; while it is away, try again until ``abandon`` or the caller's deadline."""
        pause = FIRST_PAUSE_S
        while not await self._is_written(tokens, finish):
            if self._abandoned.is_set():
                return False
            await self._rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self._tokens += tokens
        return True

    def abandon(self) -> None:
        """Stop waiting for a store that is away: ``append`` returns false after its present attempt."""
        self._abandoned.set()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._abandoned.wait()
        except TimeoutError:
            return

    async def _is_written(self, tokens: Tokens, finish: FinishReason | None) -> bool:
        try:
            await self._commit(tokens, finish)
        except StoreUnavailable:
            self.is_waiting = True
            return False
        self.is_waiting = False
        return True

    async def _commit(self, tokens: Tokens, finish: FinishReason | None) -> None:
        """A store that lost its last writes, or the whole session, gets the whole log again."""
        try:
            await self._write(len(self._tokens), tokens, finish)
        except Gap:
            await self._write(0, (*self._tokens, *tokens), finish)
        except NotFound:
            await self.create()
            await self._write(0, (*self._tokens, *tokens), finish)

    async def _write(self, base: int, tokens: Tokens, finish: FinishReason | None) -> None:
        await self._store.commit(
            self._admitted.session, self._epoch, self._nonce, base=base, tokens=tokens, finish=finish
        )

    async def cancel(self, reason: str) -> None:
        """Make the session terminal, so that nobody takes it up again."""
        await self._store.cancel(self._admitted.session, reason)
