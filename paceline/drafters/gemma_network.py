"""One step of an assistant for rows of several sessions, with the library's modules around our attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig

from paceline.core.errors import InvalidRequest
from paceline.core.types import KvShape
from paceline.models.footprint import weights_bytes
from paceline.models.loading import LoadedModel
from paceline.models.packed import pack
from paceline.models.view import TargetView

ATTENTION = "paceline-target"
"""Name under which the assistant's layers find the target's keys and values."""
MODEL_TYPES = frozenset({"gemma4_assistant", "gemma4_unified_assistant"})


@dataclass(frozen=True, slots=True)
class Row:
    """One session's next step."""

    session: str
    position: int
    """Of the newest committed token, for the whole guess: this is how the networks were trained."""
    token: int
    state: torch.Tensor
    """[hidden] the target's last hidden state before the first token, then this network's own."""


class GemmaNetwork:
    """Takes ``loaded.model`` over: its linears are packed, its attention reads ``target``."""

    def __init__(self, loaded: LoadedModel, target: TargetView) -> None:
        check_fit(loaded, target)
        model = loaded.model
        self.name = loaded.name
        self.digest = loaded.digest
        self.needed_kv = needed_kv(loaded.model.config)
        self._model = model
        self._target = target
        self._head = model.lm_head.weight.detach()
        self._kinds = sorted(set(model.config.get_text_config().layer_types))
        AttentionInterface.register(ATTENTION, _attention)
        AttentionMaskInterface.register(ATTENTION, _no_mask)
        model.set_attn_implementation(ATTENTION)
        pack(model)

    @property
    def weights_bytes(self) -> int:
        """Memory of its own weights; the table of words is the target's."""
        return weights_bytes((self._model, self._head))

    def step(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [rows, vocab], states [rows, hidden])."""
        with torch.inference_mode():
            embedded = self._target.embed([row.token for row in rows])
            x = torch.cat([embedded, torch.stack([row.state for row in rows])], -1)[None]
            hidden = self._model.model(
                inputs_embeds=self._model.pre_projection(x),
                attention_mask=dict.fromkeys(self._kinds),
                position_ids=torch.tensor([[row.position for row in rows]]),
                shared_kv_states=dict.fromkeys(self._kinds, (x, x)),  # never looked at
                use_cache=False,
                logits_to_keep=torch.arange(len(rows)),  # a number would leave out rows
                paceline_rows=(self._target, [row.session for row in rows]),
            ).last_hidden_state
            return self._logits(hidden)[0], self._model.post_projection(hidden)[0]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Over the whole vocabulary, or over the likeliest clusters of it where the assistant has them."""
        clusters = self._model.masked_embedding
        logits: torch.Tensor = self._model.lm_head(hidden) if clusters is None else clusters(hidden, self._head)
        return logits


def _attention(
    module: Any,  # noqa: ANN401
    query: torch.Tensor,
    key: object,
    value: object,
    attention_mask: object,
    **options: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, d]; returns [1, rows, heads, d]."""
    target, sessions = options["paceline_rows"]
    _, heads, num_rows, d = query.shape
    q = query[0].transpose(0, 1).contiguous()
    window = options.get("sliding_window")
    # The library counts the distance from the newest key, inclusively: one more than the window (see needed_kv).
    out = target.attend(module.layer_type, q, sessions, window + 1 if window else 0, options["scaling"])
    return out.view(1, num_rows, heads, d), None


def _no_mask(*arguments: object, **options: object) -> None:
    """The view ends where the committed positions do."""


@contextlib.contextmanager
def every_layer_shared() -> Iterator[None]:
    """Let the library make networks in which no layer has keys of its own, while this lasts.

    Assistants are such, but their text configuration demands that a layer's keys come from an earlier layer
    (transformers 5.23). It asks only while a network is made.
    """
    kinds = (Gemma4TextConfig, Gemma4UnifiedTextConfig)
    former = [kind.kv_sharing_modes for kind in kinds]

    def modes(config: Any) -> list[str | None]:  # noqa: ANN401
        if config.num_kv_shared_layers == config.num_hidden_layers:
            return ["reuse"] * config.num_hidden_layers
        own: list[str | None] = former[kinds.index(type(config))].fget(config)
        return own

    for kind in kinds:
        kind.kv_sharing_modes = property(modes)
    try:
        yield
    finally:
        for kind, own in zip(kinds, former, strict=True):
            kind.kv_sharing_modes = own


def check_fit(loaded: LoadedModel, target: TargetView) -> None:
    """Raise ``InvalidRequest`` for what is no assistant, or one that was made for another target."""
    config = loaded.model.config
    if config.model_type not in MODEL_TYPES:
        raise InvalidRequest(f"model: {loaded.name} is a {config.model_type}, no Gemma 4 assistant; give one.")
    text = config.get_text_config()
    made_for = getattr(config, "target_digest", None)
    facts: list[tuple[str, object, object]] = [
        ("a target with hidden states of", config.backbone_hidden_size, target.hidden_size),
        ("a vocabulary of", text.vocab_size, target.vocab_size),
        *(
            (f"{kind} with (heads, dimensions) of", _shape(text, kind), target.shape(kind))
            for kind in sorted(set(text.layer_types))
        ),
    ]
    if made_for:
        facts.append(("the target with digest", made_for, target.model_digest))
    for what, wanted, found in facts:
        if wanted != found:
            raise InvalidRequest(
                f"model: assistant {loaded.name} was made for {what} {wanted}, and {target.name} has {found}; use the "
                "assistant of this target."
            )


def needed_kv(config: Any) -> tuple[KvShape, ...]:  # noqa: ANN401
    """Keys and values that an assistant of this configuration looks at."""
    text = config.get_text_config()
    windows = {"sliding_attention": text.sliding_window + 1}
    return tuple(KvShape(kind, *_shape(text, kind), windows.get(kind, 0)) for kind in sorted(set(text.layer_types)))


def _shape(text: Any, kind: str) -> tuple[int, int]:  # noqa: ANN401
    """(heads of keys and values, dimensions of a head) that layers of this kind expect."""
    layer = text.per_layer_config[list(text.layer_types).index(kind)]
    return layer.num_key_value_heads, layer.head_dim
