"""Any ``transformers`` causal language model on our attention, through the library's attention interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from paceline.core.errors import Unsupported
from paceline.models.attend import FULL, KeyValues, attend
from paceline.models.attention import store_kv
from paceline.models.packed import pack, plan_of
from paceline.models.rows import Output, Rows
from paceline.models.views import as_array

ATTENTION = "paceline"
"""Name under which models find our attention."""
_ANY = np.zeros(1, np.int64)
"""A row whose logits nobody asked for."""


def stock_logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:  # noqa: ANN401
    """[len(tokens), vocab] as ``transformers`` computes them: what every forward of ours must come close to."""
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


def layer_kinds(config: Any) -> Sequence[str]:  # noqa: ANN401
    """What each layer attends to, in the library's words."""
    text = config.get_text_config()
    kinds: Sequence[str] = getattr(text, "layer_types", None) or [FULL] * text.num_hidden_layers
    return kinds


class GenericForward:
    """Takes ``model`` over: its attention becomes ours, its linears are packed and its activations run by rows."""

    def __init__(self, model: Any, num_slots: int, capacity: int, *, quantized: bool = False) -> None:  # noqa: ANN401
        self.kernel_plan = f"transformers-{transformers.__version__}+{plan_of(quantized=quantized)}"
        self._model = model
        self._num_slots = num_slots
        self._capacity = capacity
        self._caches: dict[int, KeyValues] = {}
        self._kinds = layer_kinds(model.config)
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, _no_mask)
        model.set_attn_implementation(ATTENTION)
        pack(model, quantized=quantized)

    def run(self, rows: Rows) -> Output:
        """All rows through all layers, those that are kept through the output layer too."""
        out = self._model(
            input_ids=torch.from_numpy(rows.token_ids)[None],
            position_ids=torch.from_numpy(rows.places.positions)[None],
            use_cache=False,
            # Never a number: some models then leave out rows of their later layers, which we would wait for.
            logits_to_keep=torch.from_numpy(rows.keep if len(rows.keep) else _ANY),
            output_hidden_states=bool(rows.taps),
            paceline_step=_Step(self, rows),
        )
        # The library's last hidden state is normalised already; the first is the embedding.
        features = [out.hidden_states[tap][0] for tap in rows.taps]
        return Output(out.logits[0], torch.cat(features, 1) if features else None)

    def cache(self, layer: int, keys: torch.Tensor) -> KeyValues:
        """The cache of a layer whose keys are [1, kv, rows, d]."""
        if layer not in self._caches:
            self._caches[layer] = KeyValues(self._num_slots, self._capacity, (keys.shape[1], keys.shape[3]), keys.dtype)
        return self._caches[layer]

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[n] to [n, hidden], as the first layer gets them."""
        embedded: torch.Tensor = self._model.get_input_embeddings()(token_ids)
        return embedded

    def keys_and_values(self, kind: str) -> KeyValues | None:
        """Of the last layer of this kind that makes its own; None without such a layer."""
        layers = [layer for layer in self._caches if self._kinds[layer] == kind]
        return self._caches[max(layers)] if layers else None

    def caches(self) -> list[KeyValues]:
        """One per layer that makes its own keys and values."""
        return list(self._caches.values())


class _Step:
    """The rows of a step on their way through the layers."""

    def __init__(self, forward: GenericForward, rows: Rows) -> None:
        self.places = rows.places
        self._forward = forward
        self._made: list[tuple[torch.Tensor, torch.Tensor, KeyValues]] = []

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> KeyValues:
        """The cache with these in it. A layer that is handed another layer's very tensors shares that one's cache."""
        for made_key, made_value, cache in self._made:
            if key is made_key and value is made_value:
                return cache
        cache = self._forward.cache(layer, key)
        k, v = key[0].contiguous(), value[0].contiguous()
        store_kv(as_array(k), as_array(v), self.places.homes, cache.arrays)
        self._made.append((key, value, cache))
        return cache


def _attention(
    module: Any,  # noqa: ANN401
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, d], key and value [1, kv, rows, d]; returns [1, rows, heads, d]."""
    for name in ("softcap", "s_aux"):
        if options.get(name) is not None:
            raise Unsupported(f"This model's attention uses {name}, which is not served; choose another model.")
    step = options["paceline_step"]
    cache = step.store(module.layer_idx, key, value)
    _, heads, num_rows, d = query.shape
    q, out = query[0].transpose(0, 1).contiguous(), torch.empty(num_rows, heads * d, dtype=query.dtype)
    attend(q, cache, step.places, options.get("sliding_window") or 0, options["scaling"], out)
    return out.view(1, num_rows, heads, d), None


def _no_mask(*arguments: object, **options: object) -> None:
    """Causality is the kernel's."""
