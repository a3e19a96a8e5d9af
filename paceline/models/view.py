"""What a drafter sees of its target: keys and values of committed positions, embeddings.

In the verifier's process it is a view of the target's own cache, elsewhere of a copy (``mirror``). It can't change
anything, and it can't see a rejected draft: the back end truncates a session's cache to what was committed before it
lets go of a step, and the view ends where the cache does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from paceline.core.errors import invariant
from paceline.core.types import KvShape
from paceline.models.attend import FULL, KeyValues, Places, attend
from paceline.models.loading import LoadedModel
from paceline.models.slots import SlotTable

KINDS = (FULL, "sliding_attention")
"""Of layers, in the library's words: all that the attention kernel knows."""


class TargetView:
    """``core.ports.TargetState``, read between two steps, in the thread that makes the steps or while it waits."""

    def __init__(
        self,
        loaded: LoadedModel,
        slots: SlotTable,
        embed: Callable[[torch.Tensor], torch.Tensor],
        keys_and_values: Callable[[str], KeyValues | None],
    ) -> None:
        self.name = loaded.name
        self.model_digest = loaded.digest
        self.tokenizer_digest = loaded.tokenizer_digest
        self.vocab_size = loaded.vocab_size
        self.max_context = loaded.max_context
        self.dtype = loaded.dtype
        self._slots = slots
        self._embed = embed
        self._keys_and_values = keys_and_values
        self.hidden_size = self.embed([0]).shape[1]

    def length(self, session: str) -> int:
        """Positions whose keys and values are there; 0 for an unknown session."""
        return self._slots.length(session) if session in self._slots else 0

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """[n, hidden], as the target's first layer gets them."""
        with torch.inference_mode():
            return self._embed(torch.tensor(list(tokens), dtype=torch.int64))

    def shape(self, kind: str) -> tuple[int, int] | None:
        """(heads of keys and values, dimensions of a head) of layers of this kind; None when there are none."""
        cache = self._keys_and_values(kind)
        return None if cache is None else cache.shape

    def shapes(self) -> tuple[KvShape, ...]:
        """What ``rows`` can be asked for."""
        found = [(kind, self.shape(kind)) for kind in KINDS]
        return tuple(KvShape(kind, *shape) for kind, shape in found if shape is not None)

    def rows(self, kind: str, session: str, start: int, end: int) -> torch.Tensor:
        """[end - start, 2 * heads * d] keys and then values of these positions, in bfloat16."""
        invariant(end <= self.length(session), "only what is cached is handed out")
        cache, slot = self._cache(kind), self._slots.slot(session)
        return torch.stack(cache.rows(slot, start, end), 1).to(torch.bfloat16).flatten(1)

    def _cache(self, kind: str) -> KeyValues:
        cache = self._keys_and_values(kind)
        if cache is None:
            raise KeyError(kind)
        return cache

    def attend(self, kind: str, q: torch.Tensor, sessions: Sequence[str], window: int, scale: float) -> torch.Tensor:
        """[rows, heads * d] from queries [rows, heads, d]: row i sees all of ``sessions[i]``.

        window: only so many of the newest positions; 0 for all. Each session has at least one position.
        """
        cache = self._cache(kind)
        slots = np.array([self._slots.slot(session) for session in sessions], np.int64)
        lengths = np.array([self._slots.length(session) for session in sessions], np.int64)
        queries = q.to(cache.keys.dtype)
        out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=queries.dtype)
        attend(queries, cache, Places(slots, lengths - 1), window, scale, out)
        return out.to(q.dtype)
