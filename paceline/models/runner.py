"""Sessions' tokens in, their logits out: slots, layout, padding and the fastest forward pass that is right."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numba
import numpy as np
import torch

from paceline.core.errors import PacelineError, Unsupported
from paceline.models.attend import KeyValues
from paceline.models.footprint import token_bytes, weights_bytes
from paceline.models.fused import FusedForward, can_fuse
from paceline.models.generic import GenericForward, stock_logits
from paceline.models.led import LedForward, follow
from paceline.models.loading import LoadedModel
from paceline.models.rows import Output, Rows, Segment, lay_out
from paceline.models.sharded import take_shards
from paceline.models.slots import SlotTable
from paceline.models.view import TargetView

_PROBE = tuple(7919 * i + 13 for i in range(12))
"""Tokens on which a forward pass is compared with another, modulo the vocabulary."""
_PIECES = (5, 1, 6)
_ROUNDING = {torch.bfloat16: 0.35, torch.float32: 1e-3}
"""Relative distance that rounding in another order explains (measured in bfloat16: 0.05-0.2); a wrong formula, or a
context that is not seen, is further away."""
_TWIN = {torch.bfloat16: 0.08, torch.float32: 1e-3}
"""The same for two forwards that round at the same places."""
_QUANTIZED = 0.35
"""The same with weights of 8 bits, in any type: other roundings of an activation may be another step."""


class Cache(Protocol):
    """Keys and values of sessions."""

    def copy(self, home: tuple[int, int], place: tuple[int, int]) -> None:
        """Those of one (slot, position) to another."""


class Forward(Protocol):
    """A forward pass over rows."""

    @property
    def kernel_plan(self) -> str:
        """Which kernels it is made of; part of the numerics id."""

    def run(self, rows: Rows) -> Output:
        """Logits of the rows that are kept, features of all."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[n] to [n, hidden], as the first layer gets them."""

    def keys_and_values(self, kind: str) -> KeyValues | None:
        """Of the last layer of this kind that makes its own; None without such a layer."""

    def caches(self) -> Iterable[Cache]:
        """All that there are."""


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of a session from position ``start`` on; logits are wanted of the last ``keep``."""

    session: str
    start: int
    tokens: Sequence[int]
    keep: int
    others: Sequence[tuple[int, int]] = ()
    """(position, token): tokens that may stand at positions of this feed instead. Each sees what is before it; no
    other row sees it, and nothing of it stays, unless it is adopted."""


class ModelRunner:
    """One model with its KV slots. Not thread-safe: one worker thread calls it.

    It takes ``loaded.model`` over and lets go of it where a forward pass has packed the weights for itself. quantized:
    linear layers have weights of 8 bits.
    Raises ``Unsupported`` for models that it would get wrong.
    """

    def __init__(self, loaded: LoadedModel, max_sessions: int, *, quantized: bool = False) -> None:
        self.loaded = replace(loaded, model=None)
        self.min_rows = 1
        """Steps are padded to this many rows; ``invariance.settle`` sets what the machine needs."""
        self.slots = SlotTable(max_sessions, loaded.max_context)
        self._own = _choose_forward(loaded, max_sessions + 1, quantized=quantized)
        self.led = LedForward(self._own, loaded.ranks) if loaded.ranks and loaded.ranks.rank == 0 else None
        """Where several ranks share the model and this is the first of them."""
        self._forward: Forward = self.led or self._own
        self._homes: dict[tuple[str, int, int], tuple[int, int]] = {}

    def follow(self) -> None:
        """On the other ranks: compute what rank 0 says, and return when it ends. Raises ``Unavailable``."""
        if self.loaded.ranks:
            follow(self._own, self.loaded.ranks)

    def open(self, session: str) -> None:
        """Take a slot."""
        self.slots.open(session)

    def close(self, session: str) -> None:
        """Free it."""
        self.slots.close(session)

    def truncate(self, session: str, length: int) -> None:
        """Forget what is cached from position ``length`` on."""
        self.slots.extend(session, length, 0)

    def view(self) -> TargetView:
        """For drafters in this process; made before the first session."""
        return TargetView(self.loaded, self.slots, self._forward.embed, self._forward.keys_and_values)

    def logits(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """One tensor [keep, vocab] per feed; each session's cache then ends with its feed."""
        return [one.logits for one in self.run(feeds)]

    def run(self, feeds: Sequence[Feed], taps: tuple[int, ...] = ()) -> list[Output]:
        """Logits [keep + others, vocab] and, with ``taps``, features [tokens + others, taps * hidden] of each feed."""
        for feed in feeds:
            self.slots.extend(feed.session, feed.start, len(feed.tokens))
        segments = [
            Segment(self.slots.slot(feed.session), feed.start, feed.tokens, feed.keep, feed.others) for feed in feeds
        ]
        spare, capacity = self.slots.spare, self.slots.capacity
        rows = lay_out(segments, spare=spare, min_rows=self.min_rows, capacity=capacity, taps=taps)
        with torch.inference_mode():
            out = self._forward.run(rows)
        self._homes = _homes(feeds, rows)
        others = [len(feed.others) for feed in feeds]
        kept, fed = [feed.keep for feed in feeds], [len(feed.tokens) for feed in feeds]
        logits = _split(out.logits, kept, out.logits[sum(kept) : sum(kept) + sum(others)], others)
        if out.features is None:
            return [Output(one) for one in logits]
        features = _split(out.features, fed, out.features[len(out.features) - sum(others) :], others)
        return [Output(*both) for both in zip(logits, features, strict=True)]

    def adopt(self, session: str, position: int, token: int) -> None:
        """Let the row that the last ``run`` had beside this position stay in its place, as if it had been fed."""
        slot, home = self.slots.slot(session), self._homes[session, position, token]
        for cache in self._forward.caches():
            cache.copy(home, (slot, position))

    @property
    def max_beside(self) -> int:
        """Rows that may stand beside others in one step."""
        return max(0, self.slots.capacity - self.min_rows)

    @property
    def numerics_id(self) -> str:
        """Hash of all that decides the bits of a logit."""
        software, machine = versions()
        plan = (self._forward.kernel_plan, str(self.min_rows))
        parts = (self.loaded.digest, str(self.loaded.dtype), *software, *plan, *machine)
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]

    @property
    def kernel_plan(self) -> str:
        """For people."""
        return self._forward.kernel_plan

    @property
    def weights_bytes(self) -> int:
        """Memory of the weights as they are kept for computing."""
        return weights_bytes(self._forward)

    @property
    def token_bytes(self) -> int:
        """Memory of the keys and values of one position."""
        return token_bytes(self._forward)


def versions() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What else decides the bits: software and machine."""
    machine = (
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        str(sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)),
    )
    return (torch.__version__, numba.__version__, np.__version__), machine


def _split(
    rows: torch.Tensor, counts: Sequence[int], others: torch.Tensor, other_counts: Sequence[int]
) -> Sequence[torch.Tensor]:
    """The rows of each feed, then what stood beside them; padding is in neither."""
    own = rows[: sum(counts)].split(list(counts))
    if not len(others):
        return own
    return [torch.cat(both) for both in zip(own, others.split(list(other_counts)), strict=True)]


def _homes(feeds: Sequence[Feed], rows: Rows) -> dict[tuple[str, int, int], tuple[int, int]]:
    """Where keys and values are of the rows beside others, by session, position and token."""
    names = [(feed.session, *other) for feed in feeds for other in feed.others]
    if not names:
        return {}
    slots, positions = (array[-len(names) :].tolist() for array in rows.places.homes)
    return dict(zip(names, zip(slots, positions, strict=True), strict=True))


def _choose_forward(loaded: LoadedModel, num_slots: int, *, quantized: bool) -> FusedForward | GenericForward:
    """The fused forward when it knows the model's parts and comes close to the generic one, else that one."""
    model, shape = loaded.model, (num_slots, loaded.max_context)
    probe = [token % loaded.vocab_size for token in _PROBE[: loaded.max_context]]
    with torch.inference_mode():
        stock = stock_logits(model, probe)
        if loaded.ranks:
            take_shards(model, loaded.ranks)
        fused = FusedForward(model, *shape, quantized=quantized) if not loaded.ranks and can_fuse(model) else None
        generic = GenericForward(model, *shape, quantized=quantized)
        try:
            logits = _in_pieces(generic, probe)
        except PacelineError:
            raise
        except Exception as error:  # whatever a model's code does when its attention is not the library's
            raise _not_served(model) from error
        if not _are_close(logits, stock, _QUANTIZED if quantized else _ROUNDING[logits.dtype]):
            raise _not_served(model)
        if fused and _are_close(_in_pieces(fused, probe), logits, _QUANTIZED if quantized else _TWIN[logits.dtype]):
            return fused
        return generic


def _not_served(model: Any) -> Unsupported:  # noqa: ANN401
    return Unsupported(
        f"model: {type(model).__name__} can't be served: its attention, positions or state are not what the runner "
        "knows; choose another model."
    )


def _in_pieces(forward: Forward, tokens: Sequence[int]) -> torch.Tensor:
    """[len(tokens), vocab], fed as in life: a state that is not in the KV slots would be missed."""
    out, start = [], 0
    for size in _PIECES:
        piece = tokens[start : start + size]
        if piece:
            out.append(forward.run(lay_out([Segment(0, start, piece, len(piece))], spare=0, min_rows=1)).logits)
        start += size
    return torch.cat(out)


def _are_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    """At most positions. In bfloat16 a few tokens amplify any rounding, which says nothing about the formula."""
    distance = (ours.float() - theirs.float()).square().mean(-1).sqrt() / theirs.float().std(-1).clamp(min=1e-3)
    return bool(distance.median() <= tolerance)
