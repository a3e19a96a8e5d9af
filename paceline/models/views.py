"""A tensor's memory as the kernels take it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Bits = NDArray[np.uint16] | NDArray[np.float32]
"""bfloat16 as its bits, float32 as it is."""


def as_array(tensor: torch.Tensor) -> Bits:
    """The same memory."""
    if tensor.dtype == torch.bfloat16:
        bits: Bits = tensor.view(torch.uint16).numpy()
        return bits
    plain: Bits = tensor.numpy()
    return plain
