"""Tiny random models of many families: ``transformers``' logits and text, and a row's bits are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.core.errors import Unsupported
from paceline.models.fused import FusedForward, can_fuse
from paceline.models.generic import GenericForward
from paceline.models.invariance import settle
from paceline.models.loading import load
from paceline.models.peer import TransformersPeer
from paceline.models.rows import Segment, lay_out
from paceline.models.runner import Feed, ModelRunner
from tests.support.tiny_models import (
    VOCAB,
    feed,
    make_runner,
    random_tokens,
    run,
    stock_model,
    write_model,
    write_tokenizer,
)

GEMMA4: dict[str, Any] = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "sliding_window": 7,
    "hidden_size_per_layer_input": 0,
}
SHARING: dict[str, Any] = {
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "final_logit_softcapping": 5.0,
}
FUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "llama, biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one head of keys and values": ("llama", {"num_key_value_heads": 1}),
    "llama, no grouping": ("llama", {"num_key_value_heads": 4}),
    "llama, heads of 12": ("llama", {"head_dim": 12}),
    "llama, heads of 24": ("llama", {"head_dim": 24}),
    "llama 3 frequencies": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
}
GENERIC: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, heads of 12": ("qwen3", {"head_dim": 12}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma3, window of 7": ("gemma3_text", {"head_dim": 16, "sliding_window": 7, "num_hidden_layers": 6}),
    "gemma3, capped logits": ("gemma3_text", {"head_dim": 16, "sliding_window": 7, "final_logit_softcapping": 5.0}),
    "gemma4, shared keys, embeddings per layer": ("gemma4_text", {**GEMMA4, **SHARING}),
    "gemma4, values made from keys": ("gemma4_text", {**GEMMA4, "attention_k_eq_v": True}),
    "mistral, window of 20": ("mistral", {"sliding_window": 20}),
    "qwen2, window of 20": ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
    "phi3": ("phi3", {}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("gpt_neox", {}),
}
FAMILIES = {**FUSED, **GENERIC}
AMPLIFIED = {"gemma4, shared keys, embeddings per layer": 5e-4}
"""One row's norm is of next to nothing and enlarges its rounding; the median row is at 1e-6."""
LENGTH = 60
TOKENS = random_tokens(LENGTH)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name, config = FAMILIES[request.param]
    return request.param, write_model(tmp_path_factory.mktemp("model"), name, **config)


def test_logits_are_the_librarys_within_rounding(family: tuple[str, Path]) -> None:
    name, directory = family
    runner = make_runner(directory)
    assert runner.kernel_plan.startswith("fused" if name in FUSED else "transformers")
    with torch.inference_mode():
        theirs = stock_model(directory)(torch.tensor([TOKENS]), use_cache=False).logits[0]
    ours = run(runner, TOKENS, [LENGTH])
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < AMPLIFIED.get(name, 2e-5) * theirs.std()


def test_greedy_text_is_the_librarys(family: tuple[str, Path]) -> None:
    _, directory = family
    theirs, _ = TransformersPeer(directory, "float32").generate(tuple(TOKENS[:20]), 24)
    runner = make_runner(directory)
    runner.open("s")
    ours = list(TOKENS[:20])
    row = runner.logits([Feed("s", 0, ours, 1)])[0][0]
    while len(ours) < 20 + len(theirs):
        ours.append(int(row.argmax()))
        row = runner.logits([Feed("s", len(ours) - 1, ours[-1:], 1)])[0][0]
    assert tuple(ours[20:]) == theirs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bits_do_not_depend_on_how_rows_are_grouped(family: tuple[str, Path], dtype: torch.dtype) -> None:
    runner = make_runner(family[1], dtype=dtype)
    assert settle(runner).is_exact
    whole = run(runner, TOKENS, [LENGTH])
    for sizes in ([1] * LENGTH, [20, 5, 5, 9, 21], [33, 1, 1, 25], [59, 1]):
        assert torch.equal(run(runner, TOKENS, sizes), whole)
    for session, length in (("a", 3), ("b", 41)):
        runner.open(session)
        feed(runner, random_tokens(length, seed=length), [length], session)
    runner.open("prefilled")
    runner.logits([Feed("prefilled", 0, TOKENS[:31], 0)])
    assert torch.equal(runner.logits([Feed("prefilled", 31, TOKENS[31:], 29)])[0], whole[31:])
    runner.open("s")
    for start in range(0, LENGTH, 5):
        feeds = [
            Feed("a", 3, [5], 1),
            Feed("s", start, TOKENS[start : start + 5], 5),
            Feed("b", 10, random_tokens(12, seed=start), 0),
        ]
        assert torch.equal(runner.logits(feeds)[1], whole[start : start + 5])


@pytest.mark.parametrize("name", list(FUSED))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_fused_forward_is_the_generic_one(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    kind, config = FUSED[name]
    loaded = load(write_model(tmp_path, kind, **config), dtype, max_context=LENGTH)
    rows = lay_out([Segment(0, 0, TOKENS, LENGTH)], spare=1, min_rows=1)
    with torch.inference_mode():
        fused = FusedForward(loaded.model, 2, LENGTH).run(rows).logits
        generic = GenericForward(loaded.model, 2, LENGTH).run(rows).logits
    tolerance = 0.1 if dtype == torch.bfloat16 else 2e-5
    assert (fused.float() - generic.float()).abs().max() < tolerance * generic.float().std()


@pytest.mark.parametrize("name", list(GENERIC))
def test_models_with_other_parts_or_windows_are_not_fused(name: str, tmp_path: Path) -> None:
    kind, config = GENERIC[name]
    assert not can_fuse(load(write_model(tmp_path, kind, **config), torch.float32, max_context=LENGTH).model)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "soft caps in attention": ("gemma2", {"head_dim": 16, "sliding_window": 7}, "softcap"),
    "attention sinks": ("gpt_oss", {"num_local_experts": 4, "head_dim": 16}, "s_aux"),
    "positions by attention bias": ("bloom", {"n_head": 4, "n_layer": 2}, "BloomForCausalLM can't be served"),
    "an attention of its own": ("gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, "GPTJForCausalLM"),
    "positions that it counts itself": ("xglm", {"d_model": 64, "ffn_dim": 96, "num_layers": 2}, "XGLMForCausalLM"),
    "attention in chunks": (
        "llama4_text",
        {"intermediate_size_mlp": 96, "num_local_experts": 2, "head_dim": 16, "attention_chunk_size": 8},
        "chunked_attention",
    ),
    "a recurrent state": ("mamba", {}, "linear_attention"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_would_come_out_wrong_is_refused_before_the_first_token(name: str, tmp_path: Path) -> None:
    family, config, message = REFUSED[name]
    write_model(tmp_path, family, **config)
    with pytest.raises(Unsupported, match=message):
        make_runner(tmp_path)


def test_long_frequencies_limit_the_context_to_where_sessions_do_not_change_each_others(tmp_path: Path) -> None:
    factors = {"long_factor": [4.0] * 8, "short_factor": [1.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **factors}
    write_model(tmp_path, "phi3", original_max_position_embeddings=32, rope_parameters=rope)
    assert load(tmp_path, torch.float32, max_context=128).max_context == 32
    assert load(tmp_path, torch.float32, max_context=16).max_context == 16


def test_a_vocabulary_larger_than_the_tokenizers_is_served_whole(tmp_path: Path) -> None:
    write_tokenizer(write_model(tmp_path, vocab_size=128), size=97)
    runner = make_runner(tmp_path)
    assert runner.loaded.vocab_size == 128
    assert run(runner, [127, 100, 3], [3]).shape == (3, 128)


def test_layers_that_read_another_layers_keys_have_no_cache_of_their_own(tmp_path: Path) -> None:
    runner = make_runner(write_model(tmp_path, "gemma4_text", **{**GEMMA4, **SHARING}))
    assert sorted(runner._forward._caches) == [0, 1, 2]
    view = runner.view()
    assert [view.shape(kind) for kind in ("sliding_attention", "full_attention", "linear")] == [(2, 16), (2, 32), None]


def test_a_runner_lets_go_of_the_weights_that_it_has_packed(tmp_path: Path) -> None:
    loaded = load(write_model(tmp_path), torch.float32, max_context=32)
    runner = ModelRunner(loaded, 1)
    assert runner.loaded.model is None
    assert runner.loaded.digest == loaded.digest
