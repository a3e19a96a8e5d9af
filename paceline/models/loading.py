"""Models from directories, GGUF files, hub names or the packaged default; weights are never unpickled.

``prepare`` converts once into the cache (safetensors + tokenizer.json), whole or not at all; ``load`` reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.distributed import DistributedConfig
from transformers.utils import logging as transformers_logging

from paceline.core.errors import InvalidRequest, NotFound, Unsupported
from paceline.core.types import Tokens
from paceline.models.packaged import gguf_file
from paceline.models.ranks import Ranks
from paceline.text.resolve import prepared_directory
from paceline.text.tokenizer import vocabulary_digest

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
"""What the attention kernel can do; others (chunked, linear, convolutions) would go unnoticed in short contexts."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory and what identifies it."""

    model: Any
    """As ``transformers`` loads it; a ``ModelRunner`` takes it over."""
    name: str
    digest: str
    """SHA-256 of configuration and weights."""
    tokenizer_digest: str
    """Empty when the directory has no tokenizer."""
    stop_token_ids: Tokens
    vocab_size: int
    max_context: int
    dtype: torch.dtype
    num_layers: int
    hidden_size: int
    ranks: Ranks | None = None
    """Those that share the model, when there are several."""


def choose_dtype(name: str) -> torch.dtype:
    """``auto`` is bfloat16 where the processor computes in it."""
    has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if name == "auto":
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in DTYPES:
        raise InvalidRequest(f"dtype: {name!r} is unknown; choose auto, {' or '.join(DTYPES)}.")
    if name == "bfloat16" and not has_bf16:
        raise Unsupported("dtype: this processor does not compute in bfloat16; choose float32 or auto.")
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
    with gguf_file(source, target.parent) as file, tempfile.TemporaryDirectory(dir=target.parent) as part:
        folder, options = (str(file.parent), {"gguf_file": file.name}) if file else (source, {})
        _convert(source, folder, options, Path(part))
        # Somebody else may have been faster; either result is the same.
        with contextlib.suppress(OSError):
            Path(part).rename(target)
            Path(part).mkdir()
    return target


def _convert(source: str, folder: str, options: dict[str, str], part: Path) -> None:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, trust_remote_code=False, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except OSError as error:
        raise NotFound(
            f"model: can't load {source!r}: {_first_line(error)} Give a directory, a .gguf file or a hub name."
        ) from error
    except Exception as error:  # readers of broken files raise whatever they meet
        raise InvalidRequest(f"model: {source!r} can't be converted: {_first_line(error)}") from error
    # A GGUF's weights are dequantised by now; without these lines they could not be saved as plain tensors.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def load(directory: Path, dtype: torch.dtype, *, max_context: int, ranks: Ranks | None = None) -> LoadedModel:
    """Read a prepared directory, or with ``ranks`` this one's share of it.

    Raises ``NotFound``, ``InvalidRequest``, ``Unsupported``.
    """
    _check(directory)
    model = _read_model(directory, dtype, ranks)
    described = _described(directory, model.config, dtype, max_context)
    return replace(described, model=model, ranks=ranks, vocab_size=model.get_output_embeddings().weight.shape[0])


def describe(directory: Path, dtype: torch.dtype, *, max_context: int) -> LoadedModel:
    """All of it but the model, for whoever reads only a few of its weights. Raises as ``load``."""
    _check(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # readers of broken files raise whatever they meet
        raise InvalidRequest(f"model: {directory} can't be loaded: {_first_line(error)}") from error
    return _described(directory, config, dtype, max_context)


def _described(directory: Path, of_model: Any, dtype: torch.dtype, max_context: int) -> LoadedModel:  # noqa: ANN401
    stop_ids = _generation(directory).get("eos_token_id")
    config = of_model.get_text_config()
    has_tokenizer = (directory / "tokenizer.json").is_file()
    return LoadedModel(
        model=None,
        name=directory.name,
        digest=model_digest(directory),
        tokenizer_digest=vocabulary_digest(directory) if has_tokenizer else "",
        stop_token_ids=_as_tokens(config.eos_token_id if stop_ids is None else stop_ids),
        vocab_size=config.vocab_size,
        max_context=_context_limit(config, max_context),
        dtype=dtype,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
    )


def _check(directory: Path) -> None:
    config = directory / "config.json"
    if not config.is_file():
        raise NotFound(f"model: {directory} has no config.json; give a directory with a transformers model.")
    if "auto_map" in _read_json(config):
        raise InvalidRequest(f"model: {directory} wants to run its own code (auto_map); this is never done.")
    if not list(directory.glob("*.safetensors")):
        raise InvalidRequest(f"model: {directory} has no .safetensors; pickled weights are never read, convert them.")
    _generation(directory)


def _generation(directory: Path) -> dict[str, Any]:
    """How texts of the model begin and end, where it says so."""
    file = directory / "generation_config.json"
    return _read_json(file) if file.is_file() else {}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"model: {file} is not readable JSON: {error}; fetch the model again.") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"model: {file} is not a JSON object; fetch the model again.")
    return value


def _read_model(directory: Path, dtype: torch.dtype, ranks: Ranks | None) -> Any:  # noqa: ANN401
    """With the library's plain attention; every weight comes from the files."""
    transformers_logging.disable_progress_bar()
    shares = {"distributed_config": DistributedConfig(tp_size=ranks.size)} if ranks else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
            **shares,
        )
    except Exception as error:  # readers of broken files raise whatever they meet
        raise InvalidRequest(f"model: {directory} can't be loaded: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:  # the library would fill them with random numbers
        raise InvalidRequest(f"model: {directory} lacks {len(missing)} weights, such as {missing[0]}; fetch it again.")
    other = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _LAYER_TYPES
    if other:
        raise Unsupported(f"model: layers of type {', '.join(sorted(other))} are not served; choose another model.")
    return model.eval()


def check_shares(directory: Path, size: int) -> None:
    """Raises ``Unsupported`` where ranks can't share the model, before any of them is started."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads % size or config.num_attention_heads % size:
        raise Unsupported(
            f"tensor_parallel: {size} ranks can't share {heads} heads of keys and values evenly; choose a number that "
            f"divides {heads}."
        )
    if torch.accelerator.is_available():
        raise Unsupported("tensor_parallel: only processors are served; hide accelerators (CUDA_VISIBLE_DEVICES='').")


def _context_limit(config: Any, wanted: int) -> int:  # noqa: ANN401
    """Positions that the model was made for.

    Beyond its original length the rotary frequencies of "longrope" depend on the longest session of a batch.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    limits = (wanted, getattr(config, "max_position_embeddings", None), original)
    return min(limit for limit in limits if limit)


def _as_tokens(ids: int | list[int] | None) -> Tokens:
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)


def model_digest(directory: Path) -> str:
    """SHA-256 over configuration and weights."""
    total = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
