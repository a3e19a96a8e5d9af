"""Models from directories, GGUF files and the hub's cache: what is read, refused and converted."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from paceline.core.errors import InvalidRequest, NotFound, PacelineError
from paceline.models.loading import choose_dtype, load, model_digest, prepare
from paceline.text.tokenizer import vocabulary_digest
from tests.support.tiny_models import (
    BASE,
    make_runner,
    random_tokens,
    run,
    stock_model,
    write_model,
    write_tokenizer,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    return write_model(tmp_path / "tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of converted models, empty, and an offline hub."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "models"


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def read(directory: Path) -> Any:
    return load(directory, torch.float32, max_context=64)


def refusal(directory: Path) -> PacelineError:
    """What loading says; a single line for people."""
    with pytest.raises(PacelineError) as caught:
        read(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not re.search(r"[a-z]Error\b|Traceback", str(caught.value))
    return caught.value


def test_a_directory_is_used_as_it_is(directory: Path) -> None:
    assert prepare(str(directory)) == directory
    loaded = read(directory)
    assert (loaded.name, loaded.vocab_size, loaded.max_context) == ("tiny", 97, 64)
    assert (loaded.stop_token_ids, loaded.tokenizer_digest, loaded.dtype) == ((2,), "", torch.float32)


def test_the_context_ends_where_the_models_does(directory: Path) -> None:
    assert load(directory, torch.float32, max_context=9_999).max_context == 256


def test_the_tokenizer_is_identified_when_there_is_one(directory: Path) -> None:
    write_tokenizer(directory)
    assert read(directory).tokenizer_digest == vocabulary_digest(directory)


@pytest.mark.parametrize(("ids", "expected"), [(5, (5,)), ([5, 7], (5, 7)), (None, (2,))])
def test_stop_ids_are_the_generation_configurations_else_the_models(
    directory: Path, ids: object, expected: tuple[int, ...]
) -> None:
    change(directory / "generation_config.json", eos_token_id=ids)
    assert read(directory).stop_token_ids == expected


def test_stop_ids_without_a_generation_configuration_are_the_models(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    assert read(directory).stop_token_ids == (2,)
    change(directory / "config.json", eos_token_id=None)
    assert read(directory).stop_token_ids == ()


def test_a_directory_without_a_model_is_not_found(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path), NotFound)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b'{"model_type": "lla', b"", b"\xff\xfe", b"[]"])
def test_a_broken_configuration_is_refused(directory: Path, file: str, content: bytes) -> None:
    (directory / file).write_bytes(content)
    error = refusal(directory)
    assert isinstance(error, InvalidRequest)
    assert file in str(error)


@pytest.mark.parametrize("values", [{"model_type": "nonsense"}, {"model_type": None}, {"hidden_size": "wide"}])
def test_a_configuration_that_makes_no_model_is_refused(directory: Path, values: dict[str, object]) -> None:
    change(directory / "config.json", **values)
    assert isinstance(refusal(directory), InvalidRequest)


def test_code_that_comes_with_a_model_is_never_run(directory: Path) -> None:
    change(directory / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (directory / "evil.py").write_text("raise SystemExit('was run')")
    assert "auto_map" in str(refusal(directory))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def set_trap(file: Path) -> Path:
    marker = file.with_name("was-unpickled")
    file.write_bytes(pickle.dumps(Trap(marker)))
    return marker


def test_pickled_weights_are_never_read(directory: Path) -> None:
    marker = set_trap(directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert "pickled weights are never read" in str(refusal(directory))
    assert not marker.exists()


def test_safetensors_are_read_where_pickled_weights_lie_beside_them(directory: Path) -> None:
    marker = set_trap(directory / "pytorch_model.bin")
    read(directory)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 4, 1_000, -1])
def test_truncated_weights_are_refused(directory: Path, keep: int) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert isinstance(refusal(directory), InvalidRequest)


def test_weights_that_are_missing_are_not_made_up(directory: Path) -> None:
    """The library would fill them with random numbers and a warning."""
    change(directory / "config.json", num_hidden_layers=3)
    assert "lacks 9 weights" in str(refusal(directory))


def test_weights_of_another_shape_are_refused(directory: Path) -> None:
    change(directory / "config.json", intermediate_size=128)
    assert isinstance(refusal(directory), InvalidRequest)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("place", [0, -1, 300])
def test_one_bit_of_weights_or_configuration_changes_the_digest(directory: Path, file: str, place: int) -> None:
    before = model_digest(directory)
    flip(directory / file, place)
    assert model_digest(directory) != before
    flip(directory / file, place)
    assert model_digest(directory) == before


def test_files_that_do_not_touch_logits_leave_the_digest(directory: Path) -> None:
    before = model_digest(directory)
    write_tokenizer(directory)
    (directory / "README.md").write_text("tiny")
    assert model_digest(directory) == before


def test_types_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("float32") is torch.float32
    with pytest.raises(InvalidRequest, match="choose auto, bfloat16 or float32"):
        choose_dtype("float16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert choose_dtype("auto") is choose_dtype("bfloat16") is torch.bfloat16
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert choose_dtype("auto") is torch.float32
    with pytest.raises(PacelineError, match="choose float32"):
        choose_dtype("bfloat16")


def write_gguf(file: Path) -> Path:
    """A tiny Llama with a byte-pair tokenizer, as converters write it."""
    hidden, inner, kv = 64, 96, 32
    words = ["<s>", "</s>", *(chr(97 + index) for index in range(26)), "ab", "\u0120"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(BASE["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, *[1] * (len(words) - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(words), hidden),
        "output": (len(words), hidden),
        "output_norm": (hidden,),
        "blk.0.attn_norm": (hidden,),
        "blk.0.ffn_norm": (hidden,),
        "blk.0.attn_q": (hidden, hidden),
        "blk.0.attn_k": (kv, hidden),
        "blk.0.attn_v": (kv, hidden),
        "blk.0.attn_output": (hidden, hidden),
        "blk.0.ffn_gate": (inner, hidden),
        "blk.0.ffn_up": (inner, hidden),
        "blk.0.ffn_down": (hidden, inner),
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.2).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_converted_once(cache: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    prepared = prepare(str(file))
    assert [one.name for one in cache.iterdir()] == [prepared.name]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {one.name for one in prepared.iterdir()}
    written = (prepared / "model.safetensors").stat().st_mtime_ns
    assert prepare(str(file)) == prepared
    assert (prepared / "model.safetensors").stat().st_mtime_ns == written
    loaded = read(prepared)
    assert (loaded.vocab_size, loaded.stop_token_ids) == (30, (1,))
    assert run(make_runner(prepared), [2, 3, 4], [3]).isfinite().all()


def test_a_failing_conversion_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InvalidRequest, match=r"tiny\.gguf' can't be converted"):
        prepare(str(file))
    assert list(cache.iterdir()) == []


def test_a_conversion_that_is_interrupted_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(write_gguf(tmp_path / "tiny.gguf")))
    assert list(cache.iterdir()) == []


def test_a_conversion_that_somebody_else_finished_first_is_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    theirs = prepare(str(file))
    (theirs / "theirs").touch()
    os.rename(theirs / "tokenizer.json", theirs / "later")  # not there yet when we look
    prepare(str(file))
    assert (theirs / "theirs").exists()
    assert [one.name for one in cache.iterdir()] == [theirs.name]


@pytest.mark.parametrize("source", ["nowhere.gguf", "nobody/nothing", "no such/name at all"])
def test_a_model_that_is_nowhere_is_not_found_and_nothing_is_left(cache: Path, source: str) -> None:
    with pytest.raises(NotFound, match="model: "):
        prepare(source)
    assert not cache.exists() or list(cache.iterdir()) == []


def hub_model(hub: Path, name: str) -> Path:
    """A snapshot in the hub's cache, as a download leaves it."""
    folder = hub / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    write_tokenizer(write_model(snapshot))
    (snapshot / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return snapshot


def test_a_model_in_the_hubs_cache_is_converted(cache: Path, tmp_path: Path) -> None:
    hub_model(tmp_path / "hub", "org/tiny")
    prepared = prepare("org/tiny")
    assert prepared.parent == cache
    assert read(prepared).tokenizer_digest == vocabulary_digest(prepared)
    assert run(make_runner(prepared), random_tokens(5), [5]).shape == (5, 97)


def test_pickled_weights_of_the_hub_are_never_read(cache: Path, tmp_path: Path) -> None:
    """Not even harmless ones."""
    snapshot = hub_model(tmp_path / "hub", "org/tiny")
    torch.save(stock_model(snapshot).state_dict(), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(PacelineError, match="org/tiny"):
        prepare("org/tiny")
    assert list(cache.iterdir()) == []


def test_code_of_the_hub_is_never_run(cache: Path, tmp_path: Path) -> None:
    snapshot = hub_model(tmp_path / "hub", "org/tiny")
    change(
        snapshot / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    )
    (snapshot / "evil.py").write_text("raise SystemExit('was run')")
    with pytest.raises(InvalidRequest, match="org/tiny"):
        prepare("org/tiny")
    assert list(cache.iterdir()) == []
