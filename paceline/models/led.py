"""A forward pass on several ranks: the first tells the others what it computes, and they compute it with their shares.

They hear rows as they were laid out, so that they need no sessions, no slots and no sampling of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch

from paceline.models.attend import Beside, Indices, KeyValues, Places
from paceline.models.ranks import Ranks
from paceline.models.rows import Output, Rows

_RUN, _EMBED, _COPY, _BEAT, _END = range(5)


class _Forward(Protocol):
    """A rank's own share of the model."""

    @property
    def kernel_plan(self) -> str: ...

    def run(self, rows: Rows) -> Output: ...

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor: ...

    def caches(self) -> Iterable[KeyValues]: ...


class LedForward:
    """``runner.Forward`` on rank 0."""

    def __init__(self, own: _Forward, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks
        self.kernel_plan = f"{own.kernel_plan}+ranks-{ranks.size}"

    def run(self, rows: Rows) -> Output:
        """All ranks run them; the logits and features are whole."""
        self._ranks.tell([_RUN, *pack_rows(rows)])
        return self._own.run(rows)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[n] to [n, hidden]."""
        self._ranks.tell([_EMBED, *token_ids.tolist()])
        return self._own.embed(token_ids)

    def keys_and_values(self, kind: str) -> KeyValues | None:
        """None: each rank has only its own heads'."""
        return None

    def caches(self) -> Iterable[LedForward]:
        """All of all ranks, as one to copy in."""
        return (self,)

    def copy(self, home: tuple[int, int], place: tuple[int, int]) -> None:
        """As ``KeyValues.copy``, in every cache of every rank."""
        self._ranks.tell([_COPY, *home, *place])
        _copy(self._own, home, place)

    def beat(self) -> None:
        """Return once every rank has answered. Raises ``Unavailable`` when one doesn't."""
        self._ranks.tell([_BEAT])
        self._ranks.meet()

    def end(self) -> None:
        """Let the other ranks end."""
        self._ranks.tell([_END])


def follow(own: _Forward, ranks: Ranks) -> None:
    """On the other ranks: do as rank 0 says, until it says that it's over. Raises ``Unavailable`` when it is lost."""
    while True:
        kind, *words = ranks.listen()
        with torch.inference_mode():
            if kind == _RUN:
                own.run(unpack_rows(words))
            elif kind == _EMBED:
                own.embed(torch.tensor(words, dtype=torch.int64))
            elif kind == _COPY:
                _copy(own, (words[0], words[1]), (words[2], words[3]))
            elif kind == _BEAT:
                ranks.meet()
            else:
                return


def _copy(own: _Forward, home: tuple[int, int], place: tuple[int, int]) -> None:
    for cache in own.caches():
        cache.copy(home, place)


def pack_rows(rows: Rows) -> list[int]:
    """As integers: eight lengths, then what is so long."""
    beside = rows.places.beside or Beside(*(np.zeros(0, np.int64) for _ in range(3)))
    parts = [
        rows.token_ids,
        rows.places.slots,
        rows.places.positions,
        rows.keep,
        np.array(rows.taps, np.int64),
        beside.slots,
        beside.positions,
        beside.firsts,
    ]
    return [*map(len, parts), *np.concatenate(parts).tolist()]


def unpack_rows(words: list[int]) -> Rows:
    """What was packed."""
    ends = np.cumsum(words[:8])[:-1]
    parts: list[Indices] = np.split(np.array(words[8:], np.int64), ends)
    token_ids, slots, positions, keep, taps, *beside = parts
    places = Places(slots, positions, Beside(*beside) if len(beside[0]) else None)
    return Rows(token_ids, places, keep, tuple(taps.tolist()))
