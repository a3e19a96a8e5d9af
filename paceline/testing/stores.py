"""A session store on a bad day: away for a while, without its last writes after a restart, or with another owner."""

from __future__ import annotations

from paceline.core.errors import StoreUnavailable
from paceline.core.ports import NewSession, SessionRecord
from paceline.core.types import FinishReason, Tokens
from paceline.store.memory import MemoryStore


class UnreliableStore(MemoryStore):
    """The rules of ``MemoryStore`` whenever it is not away."""

    address = "unreliable:"

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.num_calls = 0
        """Unanswered ones included."""

    async def create(self, new: NewSession) -> SessionRecord:
        """See the port."""
        self._answer()
        return await super().create(new)

    async def commit(
        self, session: str, epoch: int, nonce: str, *, base: int, tokens: Tokens, finish: FinishReason | None
    ) -> int:
        """See the port."""
        self._answer()
        return await super().commit(session, epoch, nonce, base=base, tokens=tokens, finish=finish)

    async def cancel(self, session: str, reason: str) -> SessionRecord:
        """See the port."""
        self._answer()
        return await super().cancel(session, reason)

    async def read(self, session: str) -> SessionRecord:
        """See the port."""
        self._answer()
        return await super().read(session)

    def _answer(self) -> None:
        self.num_calls += 1
        if self.is_away:
            raise StoreUnavailable("The store is away, as the test wants it.")

    @property
    def sessions(self) -> tuple[str, ...]:
        """Ids of all sessions that it has."""
        return tuple(self._entries)

    def lose_tokens(self, session: str, num_tokens: int) -> None:
        """As after a failover to a replica that was behind."""
        del self._entries[session].tokens[-num_tokens:]

    def lose(self, session: str) -> None:
        """As after a restart without a disk."""
        del self._entries[session]

    def take_over(self, session: str) -> None:
        """Another coordinator owns the session from now on."""
        self._entries[session].epoch += 1

    def rewrite(self, session: str, tokens: Tokens) -> None:
        """What no owner could have written."""
        self._entries[session].tokens[:] = tokens
