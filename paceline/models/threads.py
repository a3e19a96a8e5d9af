"""Compute threads. Both runtimes count per calling thread, so the thread that computes must say how many it wants."""

from __future__ import annotations

import os

import numba
import torch


def use_threads(count: int) -> None:
    """For the calling thread; 0 uses all cores that this process may use. Costs nothing where it is so already."""
    count = count or len(os.sched_getaffinity(0))
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    numba.set_num_threads(min(count, int(numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
