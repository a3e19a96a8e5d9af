"""Tiny random Gemma 4 targets and the assistants that read their keys, values and hidden states."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.generation.candidate_generator import SinglePositionMultiTokenCandidateGenerator
from transformers.models.gemma4_assistant.configuration_gemma4_assistant import Gemma4AssistantConfig

from paceline.core.types import FeatureFrame, Tokens
from paceline.drafters.gemma_network import every_layer_shared
from tests.support.tiny_models import BASE

VOCAB = 96
"""Can be cut in clusters."""
KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
TARGET: dict[str, Any] = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 6,
    "layer_types": KINDS * 2,
    "num_kv_shared_layers": 3,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 7,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 5.0,
}
"""All that the family has but experts: windows, shared keys, two head sizes, embeddings per layer, capped logits."""
ASSISTANT: dict[str, Any] = {
    **BASE,
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "layer_types": KINDS,
    "num_kv_shared_layers": 3,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 7,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
}


def write_assistant(
    directory: Path, *, backbone: int = BASE["hidden_size"], clusters: bool = False, seed: int = 1, **text: Any
) -> Path:
    """A random network, saved as safetensors."""
    config = Gemma4AssistantConfig(
        text_config=AutoConfig.for_model("gemma4_text", **{**ASSISTANT, **text}),
        backbone_hidden_size=backbone,
        use_ordered_embeddings=clusters,
        num_centroids=12,
        centroid_intermediate_top_k=3,
    )
    torch.manual_seed(seed)
    with every_layer_shared():
        model = AutoModelForCausalLM.from_config(config).float()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.15)
    if clusters:
        model.masked_embedding.token_ordering.copy_(torch.randperm(config.text_config.vocab_size))
    model.save_pretrained(directory)
    return directory


def stock_assistant(directory: Path) -> Any:
    """The library's own, in float32."""
    with every_layer_shared():
        return AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()


def look_at(target: Any, text: Tokens) -> SimpleNamespace:
    """Keys, values and hidden states of a stock target that has seen all of ``text`` but its newest token.

    The last hidden state is rounded as a feature frame's.
    """
    with torch.inference_mode():
        out = target(
            input_ids=torch.tensor([text[:-1]]),
            use_cache=False,
            output_hidden_states=True,
            return_shared_kv_states=True,
        )
    rounded = out.hidden_states[-1].bfloat16().float()
    return SimpleNamespace(hidden_states=(rounded,), shared_kv_states=out.shared_kv_states)


def frame_of(seen: SimpleNamespace) -> FeatureFrame:
    """The last row."""
    rows = seen.hidden_states[-1][0].bfloat16()
    return FeatureFrame(len(rows) - 1, 1, rows[-1:].contiguous().view(torch.uint8).numpy().tobytes())


def from_afar(seen: SimpleNamespace) -> SimpleNamespace:
    """With keys and values rounded as frames are."""
    rounded = {kind: tuple(one.bfloat16().float() for one in both) for kind, both in seen.shared_kv_states.items()}
    return SimpleNamespace(hidden_states=seen.hidden_states, shared_kv_states=rounded)


def library_drafts(
    target: Any, assistant: Any, text: Tokens, count: int, seen: SimpleNamespace | None = None
) -> Tokens:
    """What the library's generator of candidates says behind ``text``."""
    generator = SinglePositionMultiTokenCandidateGenerator(
        assistant, target.get_input_embeddings(), GenerationConfig(max_length=10_000)
    )
    generator.num_assistant_tokens = count
    with torch.inference_mode():
        ids, _ = generator.get_candidates(
            torch.tensor([text]),
            model_kwargs={"attention_mask": torch.ones(1, len(text), dtype=torch.int64)},
            model_outputs=seen or look_at(target, text),
            is_first_iteration=False,
            n_last_matches=0,
        )
    return tuple(ids[0, len(text) :].tolist())
