"""Which session lives in which KV slot, and how much of it is cached. Rolling back is setting a length."""

from __future__ import annotations

from paceline.core.errors import ResourceExhausted, invariant


class SlotTable:
    """A fixed number of slots; the last one of the cache is spare, for padding rows."""

    def __init__(self, num_slots: int, capacity: int) -> None:
        self.capacity = capacity
        self.spare = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._slots: dict[str, int] = {}
        self._lengths: dict[str, int] = {}

    def __contains__(self, session: str) -> bool:
        return session in self._slots

    def open(self, session: str) -> None:
        """Take a slot. Raises ``ResourceExhausted``."""
        invariant(session not in self._slots, "a session is opened once")
        if not self._free:
            raise ResourceExhausted(
                f"All {self.spare} KV slots are taken; try again later, use another verifier, or raise max_sessions."
            )
        self._slots[session] = self._free.pop()
        self._lengths[session] = 0

    def close(self, session: str) -> None:
        """Free it; unknown sessions are ignored."""
        slot = self._slots.pop(session, None)
        if slot is not None:
            self._free.append(slot)
            del self._lengths[session]

    def slot(self, session: str) -> int:
        """Index into the caches."""
        return self._slots[session]

    def length(self, session: str) -> int:
        """Cached positions."""
        return self._lengths[session]

    def extend(self, session: str, start: int, count: int) -> None:
        """Truncate to ``start``, then ``count`` positions more."""
        invariant(start <= self._lengths[session], "rows start within the cache")
        invariant(start + count <= self.capacity, "rows end within the slot")
        self._lengths[session] = start + count
