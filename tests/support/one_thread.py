"""Tiny models gain nothing from several threads, and wait for each of them on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import pytest
import torch

from paceline.models.threads import use_threads


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    use_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
