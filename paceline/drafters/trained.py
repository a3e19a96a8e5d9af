"""A trained drafter on disk: its description and ``weights.safetensors``, the network.

Weights are never unpickled, and a drafter whose weights are not those that its description names is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from paceline.core.errors import InvalidRequest, NotFound, ResourceExhausted
from paceline.drafters.description import DESCRIPTION, FORMAT, Description, parse_description

WEIGHTS = "weights.safetensors"
TOKEN_IDS = "token_ids"  # noqa: S105 - no secret
"""The tensor that maps the drafter's own ids to the target's, int32 [vocab]."""


@dataclass(frozen=True, slots=True)
class TrainedDrafter:
    """Description and weights in memory."""

    about: Description
    weights: Mapping[str, torch.Tensor]

    @property
    def token_ids(self) -> torch.Tensor:
        """[vocab] the target's ids of the drafter's own."""
        return self.weights[TOKEN_IDS].long()


def read_description(directory: Path, kind: str) -> Description:
    """Raises ``NotFound`` and ``InvalidRequest``, which name the file and the remedy."""
    file = directory / DESCRIPTION
    if not file.is_file():
        raise NotFound(f"model: {directory} has no {DESCRIPTION}; give a directory that paceline train has made.")
    about = parse_description(file)
    if about.kind != kind:
        raise InvalidRequest(f"model: {directory} holds a drafter of kind {about.kind!r}; set drafter={about.kind}.")
    return about


def read_trained(directory: Path, kind: str) -> TrainedDrafter:
    """Raises ``NotFound`` and ``InvalidRequest``, which name the file and the remedy."""
    about = read_description(directory, kind)
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise NotFound(f"model: {directory} has no {WEIGHTS}; pickled weights are never read, export it again.")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != about.weights_digest:
        raise InvalidRequest(f"model: {weights} is not the file that {DESCRIPTION} describes; export it again.")
    try:
        return TrainedDrafter(about, load_file(weights))
    except (SafetensorError, ValueError) as error:
        raise InvalidRequest(f"model: {weights} is no safetensors file ({error}); export it again.") from error


def check_sizes(trained: TrainedDrafter, vocab: int, features: int) -> None:
    """Raise ``InvalidRequest`` unless token ids and hidden states are as many as the network's sizes say."""
    about = trained.about
    ids = trained.weights.get(TOKEN_IDS, torch.empty(0)).tolist()
    if len(ids) != vocab or ids != sorted(set(ids)) or not ids or ids[0] < 0 or ids[-1] >= about.target.vocab_size:
        raise InvalidRequest(
            f"model: drafter {about.name} needs {vocab} different {TOKEN_IDS} below {about.target.vocab_size}, in "
            "order; export it again."
        )
    if features != len(about.taps) * about.target.hidden_size:
        raise InvalidRequest(
            f"model: drafter {about.name} sees {features} features, not {len(about.taps)} hidden states of "
            f"{about.target.hidden_size}; export it again."
        )


def require_place(directory: Path) -> None:
    """Raise ``InvalidRequest`` unless ``write_trained`` may replace what is there: a drafter, or nothing."""
    if not directory.name:
        raise InvalidRequest(f"out: {str(directory)!r} can't be replaced; give a directory of the drafter's own.")
    if directory.exists() and not (directory / DESCRIPTION).is_file() and not _is_empty(directory):
        raise InvalidRequest(f"out: {directory} holds something else than a drafter; choose another place.")


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def write_trained(directory: Path, about: Description, weights: Mapping[str, torch.Tensor]) -> None:
    """Whole or not at all; replaces the drafter that is there. Raises ``ResourceExhausted`` when the disk is full."""
    blob = save({name: tensor.contiguous() for name, tensor in weights.items()})

    def fill(part: Path) -> None:
        (part / WEIGHTS).write_bytes(blob)
        write_description(part, about, blob)

    write_whole(directory, fill)


def write_description(directory: Path, about: Description, weights: bytes) -> None:
    """Beside the file of weights that has this content."""
    content = {"format": FORMAT, **asdict(about), "weights_digest": hashlib.sha256(weights).hexdigest()}
    (directory / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_whole(directory: Path, fill: Callable[[Path], None]) -> None:
    """What ``fill`` writes into a directory, at ``directory`` when it is complete; replaces the drafter there.

    Raises ``ResourceExhausted`` when the disk is full, and leaves what was there.
    """
    require_place(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as room:
            part, former = Path(room, "new"), Path(room, "former")
            part.mkdir()
            fill(part)
            _replace(part, directory, former)
    except (OSError, SafetensorError) as error:
        raise ResourceExhausted(
            f"out: {directory} can't be written ({error}); free some space or choose another place, and try again."
        ) from error


def _replace(part: Path, directory: Path, former: Path) -> None:
    if directory.exists():
        os.replace(directory, former)
    try:
        os.replace(part, directory)
    except OSError:
        if former.exists():
            os.replace(former, directory)
        raise


def check_weights(about: Description, weights: Mapping[str, torch.Tensor], wanted: Mapping[str, Sequence[int]]) -> None:
    """Raise ``InvalidRequest`` unless exactly the ``wanted`` tensors are there, with these shapes."""
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found == {name: tuple(shape) for name, shape in wanted.items()}:
        return
    odd = next(name for name in sorted({*found, *wanted}) if found.get(name) != tuple(wanted.get(name, ())))
    raise InvalidRequest(
        f"model: drafter {about.name} has {odd} of shape {found.get(odd)}, its sizes ask for "
        f"{tuple(wanted[odd]) if odd in wanted else None}; export it again."
    )
