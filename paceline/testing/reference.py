"""What the synthetic model says when it is simply asked token by token: the text that every system must give."""

from __future__ import annotations

from paceline.config.settings import SyntheticSettings
from paceline.core.types import SamplingParams, Tokens
from paceline.models.hash_model import HashModel
from paceline.testing.letters import LETTERS

SYNTHETIC = SyntheticSettings(vocab_size=len(LETTERS), step_base_s=0.01)
"""A token per letter; a step takes 10 ms of the loop's time, so that drafts can come while it runs."""


def reference(
    prompt: Tokens,
    max_tokens: int,
    *,
    sampling: SamplingParams | None = None,
    stop_token_ids: Tokens = (),
    settings: SyntheticSettings = SYNTHETIC,
) -> Tokens:
    """The output after ``prompt``, up to and with the first stop id. The seed is in ``sampling``."""
    model, law, context = HashModel(settings.vocab_size, settings.model_seed), sampling or SamplingParams(), [*prompt]
    while len(context) < len(prompt) + max_tokens:
        context.append(model.next_token(context, law, len(prompt)))
        if context[-1] in stop_token_ids:
            break
    return tuple(context[len(prompt) :])
