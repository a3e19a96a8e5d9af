"""Sessions' tokens in, their logits out: slots, layout, padding and the fastest forward pass that is right."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numba
import torch

from paceline.models.fused import FusedForward, can_fuse
from paceline.models.generic import GenericForward
from paceline.models.loading import LoadedModel
from paceline.models.rows import Rows, Segment, lay_out
from paceline.models.slots import SlotTable

_PROBE = (11, 3, 7, 2, 5, 13, 1, 8, 4, 9, 6, 10)
"""Tokens on which the fused forward is compared with the generic one."""


class Forward(Protocol):
    """A forward pass over rows."""

    @property
    def kernel_plan(self) -> str:
        """Which kernels it is made of; part of the numerics id."""

    def logits(self, rows: Rows) -> torch.Tensor:
        """[len(rows.keep), vocab]."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of a session from position ``start`` on; logits are wanted of the last ``keep``."""

    session: str
    start: int
    tokens: Sequence[int]
    keep: int


class ModelRunner:
    """One model with its KV slots. Not thread-safe: one worker thread calls it."""

    def __init__(self, loaded: LoadedModel, max_sessions: int) -> None:
        self.loaded = loaded
        self.min_rows = 1
        """Steps are padded to this many rows; ``invariance.settle`` sets what the machine needs."""
        self.slots = SlotTable(max_sessions, loaded.max_context)
        self._forward = _choose_forward(loaded, max_sessions + 1)

    def open(self, session: str) -> None:
        """Take a slot."""
        self.slots.open(session)

    def close(self, session: str) -> None:
        """Free it."""
        self.slots.close(session)

    def logits(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """One tensor [keep, vocab] per feed; each session's cache then ends with its feed."""
        for feed in feeds:
            self.slots.extend(feed.session, feed.start, len(feed.tokens))
        segments = [Segment(self.slots.slot(feed.session), feed.start, feed.tokens, feed.keep) for feed in feeds]
        with torch.inference_mode():
            out = self._forward.logits(lay_out(segments, spare=self.slots.spare, min_rows=self.min_rows))
        return list(out[: sum(feed.keep for feed in feeds)].split([feed.keep for feed in feeds]))

    @property
    def numerics_id(self) -> str:
        """Hash of all that decides the bits of a logit."""
        parts = (
            self.loaded.digest,
            str(self.loaded.dtype),
            torch.__version__,
            numba.__version__,
            self._forward.kernel_plan,
            str(self.min_rows),
            platform.machine(),
            torch.backends.cpu.get_cpu_capability(),
            str(sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)),
        )
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]

    @property
    def kernel_plan(self) -> str:
        """For people."""
        return self._forward.kernel_plan


def _choose_forward(loaded: LoadedModel, num_slots: int) -> Forward:
    """The fused forward when the model's parts are known and its logits are the model's."""
    with torch.inference_mode():
        if not can_fuse(loaded.model):
            return GenericForward(loaded.model, num_slots, loaded.max_context)
        fused = FusedForward(loaded.model, num_slots, loaded.max_context)
        generic = GenericForward(loaded.model, 1, len(_PROBE))
        probe = [token % loaded.vocab_size for token in _PROBE]
        rows = lay_out([Segment(0, 0, probe, len(probe))], spare=0, min_rows=1)
        if _are_close(fused.logits(rows), generic.logits(rows)):
            return fused
        return GenericForward(loaded.model, num_slots, loaded.max_context)


def _are_close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Within what rounding in another order explains: a wrong formula is far outside."""
    tolerance = 0.08 if ours.dtype == torch.bfloat16 else 1e-3
    difference = (ours.float() - theirs.float()).abs().max()
    return bool(difference <= tolerance * theirs.float().std().clamp(min=1e-3))
