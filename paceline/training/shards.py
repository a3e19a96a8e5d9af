"""Training data on disk: continuations with what the target thought of them, in shards that can be read as they come.

A shard is one safetensors file that appears whole or not at all; how many samples exist is the resume point.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.laws import law_from_values, law_to_values
from paceline.core.types import SamplingParams, Tokens
from paceline.training.generate import Sample

SAMPLES = 256
"""Per shard."""
LAWS = "laws"
"""The entry of a shard's metadata with the laws of texts that were served."""
_PER_SAMPLE = ("lengths", "prompt_lengths", "features_start", "temperatures", "seeds")


class ShardWriter:
    """Collects samples; ``close`` writes the rest."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._index = max((int(file.stem) for file in shard_files(directory) if file.stem.isdecimal()), default=-1) + 1
        self._waiting: list[tuple[int, Sample]] = []

    def add(self, prompt: int, sample: Sample) -> None:
        """``prompt`` is the index of the prompt that the sample came from."""
        self._waiting.append((prompt, sample))
        if len(self._waiting) >= SAMPLES:
            self.close()

    def close(self) -> None:
        """Write what waits. Raises ``ResourceExhausted`` on a full disk, and leaves no half file."""
        if not self._waiting:
            return
        target = self._directory / f"{self._index:05d}.safetensors"
        part = target.with_suffix(".part")
        try:
            save_file(_join(self._waiting), part, _laws_to_metadata([one for _, one in self._waiting]))
            os.replace(part, target)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise ResourceExhausted(
                f"data: {target} can't be written: {error}; free some space and start again, it goes on from here."
            ) from error
        self._index += 1
        self._waiting = []


def _join(entries: Sequence[tuple[int, Sample]]) -> dict[str, torch.Tensor]:
    samples = [sample for _, sample in entries]
    columns = {
        "prompt": torch.tensor([index for index, _ in entries]),
        "lengths": torch.tensor([len(one.tokens) for one in samples]),
        "prompt_lengths": torch.tensor([one.prompt_length for one in samples]),
        "features_start": torch.tensor([one.features_start for one in samples]),
        "temperatures": torch.tensor([one.temperature for one in samples], dtype=torch.float64),
        "seeds": torch.tensor([one.seed for one in samples]),
        "tokens": torch.tensor([token for one in samples for token in one.tokens], dtype=torch.int32),
    }
    for name in ("features", "top_ids", "top_logprobs"):
        parts = [getattr(one, name) for one in samples]
        if all(part is not None for part in parts):
            columns[name] = torch.cat(parts)
    return columns


def shard_files(directory: Path) -> list[Path]:
    """In the order in which they were written."""
    return sorted(directory.glob("*.safetensors"))


def done_prompts(directory: Path) -> dict[int, Tokens]:
    """Prompts whose samples are on disk, by their indices. Raises ``InvalidRequest`` for damaged files."""
    done: dict[int, Tokens] = {}
    for file in shard_files(directory):
        columns = _columns(file, ("prompt", "tokens", "lengths", "prompt_lengths"))
        tokens = columns["tokens"].split(columns["lengths"].tolist())
        for index, one, length in zip(columns["prompt"].tolist(), tokens, columns["prompt_lengths"], strict=True):
            done[index] = tuple(one[:length].tolist())
    return done


def read_shard(file: Path) -> Iterator[Sample]:
    """The samples of one file. Raises ``InvalidRequest`` when it is damaged."""
    columns = _columns(file, (*_PER_SAMPLE, "tokens"), ("features", "top_ids", "top_logprobs"))
    token = feature = output = 0
    laws = _laws(file, len(columns["lengths"]))
    for law, (length, prompt_length, start, temperature, seed) in zip(laws, _each(columns), strict=True):
        rows, made = length - 1 - start, length - prompt_length
        yield Sample(
            tuple(columns["tokens"][token : token + length].tolist()),
            prompt_length,
            start,
            temperature,
            seed,
            columns["features"][feature : feature + rows] if "features" in columns else None,
            columns["top_ids"][output : output + made] if "top_ids" in columns else None,
            columns["top_logprobs"][output : output + made] if "top_logprobs" in columns else None,
            law,
        )
        token, feature, output = token + length, feature + rows, output + made


def _laws_to_metadata(samples: Sequence[Sample]) -> dict[str, str] | None:
    """Of samples that have one of their own."""
    laws = [None if one.law is None else law_to_values(one.law) for one in samples]
    return {LAWS: json.dumps(laws)} if any(law is not None for law in laws) else None


def _laws(file: Path, count: int) -> list[SamplingParams | None]:
    with safe_open(file, "pt") as shard:
        text = (shard.metadata() or {}).get(LAWS)
    if text is None:
        return [None] * count
    return [None if law is None else law_from_values(law) for law in json.loads(text)]


def _columns(file: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, "pt") as shard:
            there = [name for name in optional if name in shard.keys()]  # noqa: SIM118 - not a mapping
            columns = {name: shard.get_tensor(name) for name in (*names, *there)}
    except Exception as error:  # whatever the reader of a damaged file raises
        raise InvalidRequest(f"data: {file} is damaged ({error}); delete it, its prompts are done again.") from error
    return columns


def _each(columns: dict[str, torch.Tensor]) -> Iterator[tuple[int, int, int, float, int]]:
    return zip(*(columns[name].tolist() for name in _PER_SAMPLE), strict=True)
