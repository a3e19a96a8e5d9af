"""The processes that share a model: what they say to each other, and sums whose bits depend on nothing but the parts.

Only integers and tensors are exchanged, never objects: nothing that a rank sends is run. Whoever does not answer is
lost, and with it the whole group, since each holds a part of every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from paceline.core.errors import Mismatch, Unavailable

JOIN_S = 120.0
"""For all ranks to meet: the time that processes take to start."""
PATIENCE = timedelta(minutes=30)
"""Where one rank may have to wait for another's loading; the end of a process is noticed at once, even so."""


class Ranks:
    """This process among the others. One thread calls it, and all ranks make the same calls in the same order.

    rendezvous: where they meet, ``tcp://host:port`` of rank 0 or ``file:///path`` that all can write. timeout_s: for
    what another rank has to compute in a step. Raises ``Unavailable`` when they don't meet.
    """

    def __init__(self, rank: int, size: int, rendezvous: str, timeout_s: float) -> None:
        self.rank, self.size = rank, size
        self.explain: Callable[[], str] = lambda: "the log of the one that ended first says why"
        """What is known of the others when one is lost."""
        with self._lost():
            dist.init_process_group(
                "gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timedelta(seconds=JOIN_S)
            )
            self._steps = dist.new_group(timeout=timedelta(seconds=timeout_s))
            self._orders = dist.new_group(timeout=PATIENCE)
        self._group = self._orders

    def agree(self, *facts: object) -> None:
        """Wait for all ranks. Raises ``Mismatch`` unless they were given the same."""
        digest = hashlib.sha256(repr(facts).encode()).digest()
        mine = torch.frombuffer(bytearray(digest), dtype=torch.int64)
        if any(not torch.equal(one, mine) for one in self._gather(mine, self._orders)):
            raise Mismatch(
                "tensor_parallel: the ranks differ in model, dtype, limits, versions or processor; start all of them "
                f"with the same settings, installation and kind of machine (this is rank {self.rank}: {facts})."
            )

    def meet(self) -> None:
        """Return once everybody is here. From the first time on all must be quick: what had to be loaded is loaded."""
        self._group = self._steps
        self.gather(torch.zeros(1))

    def gather(self, part: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's part, in order of the ranks; all have the same shape."""
        return self._gather(part.contiguous(), self._group)

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's part, in float32 and in order of the ranks, rounded once.

        The order of an all-reduce's sums depends on the tensor's length, so on how many rows a step has.
        """
        parts = self.gather(part)
        total = parts[0].float()
        for one in parts[1:]:
            total = total + one
        return total.to(part.dtype)

    def tell(self, order: Sequence[int]) -> None:
        """Rank 0 to all others; they ``listen``."""
        message = torch.tensor(order, dtype=torch.int64)
        with self._lost():
            dist.broadcast(torch.tensor([len(message)]), 0, group=self._orders)
            dist.broadcast(message, 0, group=self._orders)

    def listen(self) -> list[int]:
        """The next order."""
        length = torch.zeros(1, dtype=torch.int64)
        with self._lost():
            dist.broadcast(length, 0, group=self._orders)
            message = torch.empty(int(length), dtype=torch.int64)
            dist.broadcast(message, 0, group=self._orders)
        return message.tolist()

    def leave(self) -> None:
        """End it in this process."""
        dist.destroy_process_group()

    def _gather(self, part: torch.Tensor, group: dist.ProcessGroup) -> list[torch.Tensor]:
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with self._lost():
            dist.all_gather(parts, part, group=group)
        return parts

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise Unavailable(
                f"tensor_parallel: rank {self.rank} of {self.size} has lost the others ({self.explain()}); start all "
                f"ranks again, or give them more time with rank_timeout_s if they were only slow. {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
