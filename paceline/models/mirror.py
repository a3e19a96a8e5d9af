"""A copy of a target's keys and values in another process, filled from frames; read as the target's own are.

Positions are absolute, as in the target's cache, so that the attention kernel gives the same bits. Only committed rows
come, so nothing is ever taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from paceline.core.types import KvFrame, KvShape
from paceline.models.attend import KeyValues
from paceline.models.footprint import weights_bytes
from paceline.models.frames import rows_of
from paceline.models.loading import LoadedModel
from paceline.models.slots import SlotTable
from paceline.models.view import TargetView

_Run = tuple[int, int]
"""First position and the one after the last, of rows without a gap."""


class TargetMirror:
    """``view`` shows a session's positions as far as all that is needed of them has come."""

    def __init__(
        self,
        loaded: LoadedModel,
        embed: Callable[[torch.Tensor], torch.Tensor],
        shapes: Sequence[KvShape],
        max_sessions: int,
    ) -> None:
        self._shapes = {shape.kind: shape for shape in shapes}
        self._caches = {
            shape.kind: KeyValues(max_sessions, loaded.max_context, (shape.num_heads, shape.head_size), loaded.dtype)
            for shape in shapes
        }
        self._slots = SlotTable(max_sessions, loaded.max_context)
        self._runs: dict[str, dict[str, _Run]] = {}
        self.weights_bytes = weights_bytes(embed)
        self.view = TargetView(loaded, self._slots, embed, self._caches.get)

    def state_bytes(self) -> int:
        """Memory of the rows that are there."""
        runs = [(kind, run) for session in self._runs.values() for kind, run in session.items()]
        return sum(self._caches[kind].row_bytes * (end - start) for kind, (start, end) in runs)

    def open(self, session: str) -> None:
        """Take a slot. Raises ``ResourceExhausted``."""
        self._slots.open(session)
        self._runs[session] = {}

    def close(self, session: str) -> None:
        """Free it; unknown sessions are ignored."""
        self._slots.close(session)
        self._runs.pop(session, None)

    def add(self, frame: KvFrame) -> None:
        """Rows that follow what is there, or else begin anew; those beyond the context are left out."""
        cache, runs, rows = self._caches[frame.kind], self._runs[frame.session], frame.rows
        start, end = rows.start, min(rows.end, self._slots.capacity)
        first, last = runs.get(frame.kind, (start, start))
        if not first <= start <= last:
            first, last = start, start
        if end > last:
            shape, slot = self._shapes[frame.kind], self._slots.slot(frame.session)
            fresh = rows_of(rows)[last - start : end - start].view(-1, 2, shape.num_heads, shape.head_size)
            cache.put_rows(slot, last, *fresh.unbind(1))
            runs[frame.kind] = (first, end)
            self._slots.extend(frame.session, 0, self._length(runs))

    def _length(self, runs: dict[str, _Run]) -> int:
        """Positions of which everything is there that anybody at the next one looks at."""
        if len(runs) < len(self._shapes):
            return 0
        length = min(end for _, end in runs.values())
        firsts = [
            (runs[kind][0], length - shape.history if shape.history else 0) for kind, shape in self._shapes.items()
        ]
        return length if all(first <= max(0, needed) for first, needed in firsts) else 0
