"""What an assistant needs of its target's files where it runs without it: the embedding, and whose it is.

An assistant is told the next token by the target's own embedding, which its files lack. Configurations of assistants
name no target; its digest is that of the files which the setting names.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from paceline.core.errors import InvalidRequest
from paceline.models.loading import LoadedModel, describe, prepare

_EMBEDDING = "embed_tokens.weight"


class TargetEmbedding:
    """As the library's embedding of this family: scaled, in the model's own precision."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self._scale = torch.tensor(weight.shape[1] ** 0.5).to(weight.dtype)

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[n] to [n, hidden]."""
        return torch.nn.functional.embedding(token_ids, self._weight) * self._scale


def read_target(source: str, dtype: torch.dtype, max_context: int) -> tuple[LoadedModel, TargetEmbedding]:
    """Its description without a model, and its embedding. Raises ``NotFound`` and ``InvalidRequest``."""
    directory = prepare(source)
    described = describe(directory, dtype, max_context=max_context)
    family = str(json.loads((directory / "config.json").read_text("utf-8")).get("model_type"))
    if not family.startswith("gemma4"):
        raise InvalidRequest(f"target: {directory.name} is a {family}; give the Gemma 4 model of this assistant.")
    weight = _read_embedding(directory).to(dtype)
    if weight.shape != (described.vocab_size, described.hidden_size):
        raise InvalidRequest(
            f"target: the embedding of {directory} is {tuple(weight.shape)}, its configuration says "
            f"{(described.vocab_size, described.hidden_size)}; fetch the model again."
        )
    return described, TargetEmbedding(weight)


def _read_embedding(directory: Path) -> torch.Tensor:
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                names = [name for name in tensors.keys() if name.endswith(_EMBEDDING)]  # noqa: SIM118 - no dict
                if names:
                    found: torch.Tensor = tensors.get_tensor(names[0])
                    return found
        except (SafetensorError, OSError) as error:
            raise InvalidRequest(f"target: {file} is no safetensors file ({error}); fetch the model again.") from error
    raise InvalidRequest(f"target: {directory} has no {_EMBEDDING}; give the Gemma 4 model of this assistant.")
