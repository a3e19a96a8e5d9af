"""Brings the peers up: finds environments and weights, starts and loads children, ends them with the block."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from paceline.cli.modes import Encode
from paceline.cli.peers.catalogue import ENGINES, HINT, Peer, find_python, program
from paceline.cli.peers.children import Order, PeerChild
from paceline.cli.peers.measuring import Absent, Contender, theirs
from paceline.core.errors import PacelineError
from paceline.text.resolve import cache_root

ASSISTED = "assisted"
CONTEXT_STEP = 256
_DRAFTS = 64
"""Room for draft tokens past the end."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The same model in the forms that engines read."""

    directory: Path
    gguf: Path | None
    """None when the model does not come as such a file."""
    gguf_types: str = ""
    gguf_bits: float = 0.0
    """Per weight, scales and all."""


@dataclass(frozen=True, slots=True)
class Lineup:
    """How peers are started."""

    peers: Sequence[Peer]
    weights: Weights
    max_tokens: int
    longest_prompt: int
    streams: int
    assistant: str = ""
    pythons: Mapping[str, Path] = field(default_factory=dict)
    """By engine, where the user has an environment of his own."""

    def order(self, peer: Peer) -> Order:
        """What its worker loads. Both directories and files are named as this process sees them."""
        needed = self.longest_prompt + self.max_tokens + _DRAFTS
        order = Order(
            model=str(self.weights.directory.absolute()),
            mode=peer.mode,
            threads=len(os.sched_getaffinity(0)),
            streams=self.streams,
            max_context=-(-needed // CONTEXT_STEP) * CONTEXT_STEP,
            weights="bfloat16",
            bits_per_weight=16.0,
            assistant=self.assistant,
        )
        if not ENGINES[peer.engine].reads_gguf or self.weights.gguf is None:
            return order
        file, types, bits = self.weights.gguf, self.weights.gguf_types, self.weights.gguf_bits
        return replace(order, model=str(file.absolute()), weights=types, bits_per_weight=bits)

    def obstacle(self, peer: Peer) -> str:
        """Why it can't be started; empty when it can."""
        if find_python(peer.engine, self.pythons) is None:
            return HINT
        if ENGINES[peer.engine].reads_gguf and self.weights.gguf is None:
            return "reads GGUF files, and this model is none; give one with --gguf"
        if peer.mode == ASSISTED and not self.assistant:
            return "needs a smaller model with the same tokenizer: --assistant DIRECTORY"
        return ""


@asynccontextmanager
async def started(
    lineup: Lineup, encode: Encode, tell: Callable[[str], None]
) -> AsyncIterator[tuple[list[Contender], list[Absent]]]:
    """Who is ready, and who isn't and why; all are ended with the block."""
    logs = cache_root() / "logs" / str(os.getpid())
    logs.mkdir(parents=True, exist_ok=True)
    children: list[PeerChild] = []
    ready: list[Contender] = []
    absent: list[Absent] = []
    try:
        for peer in lineup.peers:
            obstacle, python = lineup.obstacle(peer), find_python(peer.engine, lineup.pythons)
            if obstacle or python is None:
                absent.append(Absent(peer.name, obstacle))
                continue
            tell(f"loading {peer.name}")
            log = logs / f"peer-{peer.engine}-{peer.mode}.log"
            child = PeerChild(peer.name, program(peer.engine, python), log)
            children.append(child)
            try:
                about = await child.start(lineup.order(peer))
                ready.append(theirs(peer, child, about, encode, lineup.max_tokens))
            except PacelineError as error:
                absent.append(Absent(peer.name, str(error)))
                await child.stop()
        yield ready, absent
    finally:
        for child in children:
            await child.stop()


def describe_gguf(file: Path) -> tuple[str, float]:
    """(quantisation of most weights first, bits per weight with scales) of a GGUF file."""
    from gguf import GGUFReader

    tensors = GGUFReader(file).tensors
    sizes: defaultdict[str, int] = defaultdict(int)
    for one in tensors:
        sizes[one.tensor_type.name] += int(one.n_elements)
    total = sum(sizes.values())
    types = "+".join(sorted((name for name in sizes if sizes[name] > 0.02 * total), key=lambda name: -sizes[name]))
    return f"GGUF {types}", 8 * sum(int(one.n_bytes) for one in tensors) / total
