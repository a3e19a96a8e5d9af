"""Texts that were served as training data: logged tokens run through the target again, for what it thought of them.

Only texts of this target that the log has from their beginning on: of others the target saw more than can be shown to
it again. Records of version 1 don't say whose they are, and are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from paceline.core.errors import InvalidRequest
from paceline.core.laws import law_to_values
from paceline.core.types import SamplingParams
from paceline.models.loading import LoadedModel
from paceline.models.runner import Feed, ModelRunner
from paceline.sampling.processors import validate
from paceline.training.distil import HISTORY, NUM_TOP, Made
from paceline.training.generate import Sample, top_tokens
from paceline.training.shards import ShardWriter
from paceline.training.subject import SHORTEST_OUTPUT
from paceline.training.verdicts import LoggedText, merge, read_verdicts

PIECE = 256
"""Tokens per forward pass."""
SESSION = "recalled"


def logged_texts(log: Path, target: LoadedModel, tell: Callable[[str], None]) -> list[LoggedText]:
    """Those that can be learned from, cut to the target's context; ``tell`` hears of others.

    Raises ``NotFound`` and ``InvalidRequest``, also for a log of another target.
    """
    logged = merge(read_verdicts(log))
    known = [text for text in logged if text.origin is not None and text.origin.target]
    if len(known) < len(logged):
        tell(f"{len(logged) - len(known)} of {len(logged)} texts of the log don't say whose they are, and are left out")
    if not known:
        raise InvalidRequest(
            f"from-log: no text in {log} says which target it is of: an earlier version logged them. Delete them and "
            "log new ones."
        )
    texts = []
    for text in known:
        _check(text, target)
        cut = dataclasses.replace(text, tokens=text.tokens[: target.max_context])
        if text.start == 0 and 0 < cut.num_prompt <= len(cut.tokens) - SHORTEST_OUTPUT:
            texts.append(cut)
    return texts


def _check(text: LoggedText, target: LoadedModel) -> None:
    """Raise ``InvalidRequest`` for a text that this target has not made."""
    assert text.origin is not None  # noqa: S101 - invariant: the caller has looked
    if text.origin.target != target.digest:
        raise InvalidRequest(
            f"from-log: session {text.session} is of target {text.origin.target[:12]}, not of {target.name} "
            f"({target.digest[:12]}); give the --target that the log is of, or a log of this one."
        )
    odd = next((token for token in text.tokens if token >= target.vocab_size), None)
    if odd is not None:
        raise InvalidRequest(
            f"from-log: token {odd} of session {text.session} is outside the target's vocabulary of "
            f"{target.vocab_size}; the log is damaged, delete it."
        )
    validate(text.origin.sampling, target.vocab_size)


def recall_all(
    runner: ModelRunner,
    texts: Sequence[LoggedText],
    directory: Path,
    *,
    taps: tuple[int, ...],
    tell: Callable[[Made], None],
) -> None:
    """Into shards in ``directory``. Raises ``ResourceExhausted``."""
    writer, num_tokens = ShardWriter(directory), 0
    for index, text in enumerate(texts):
        writer.add(index, recall(runner, text, taps))
        num_tokens += len(text.tokens) - text.num_prompt
        tell(Made(index + 1, len(texts), num_tokens))
    writer.close()


def recall(runner: ModelRunner, text: LoggedText, taps: tuple[int, ...]) -> Sample:
    """What the generator would have left, had it made this text."""
    fed, prompt = text.tokens[:-1], text.num_prompt
    first = max(0, prompt - HISTORY)
    features, tops = [], []
    runner.open(SESSION)
    try:
        for start in range(0, len(fed), PIECE):
            piece = fed[start : start + PIECE]
            keep = min(len(piece), max(0, start + len(piece) - (prompt - 1)))
            output = runner.run([Feed(SESSION, start, piece, keep)], taps)[0]
            assert output.features is not None  # noqa: S101 - invariant: there are taps
            features.append(output.features[max(0, first - start) :].to(torch.bfloat16, copy=True))
            if keep:
                tops.append(top_tokens(output.logits, NUM_TOP))
    finally:
        runner.close(SESSION)
    ids, logprobs = (torch.cat(column) for column in zip(*tops, strict=True))
    law = text.origin.sampling if text.origin is not None else SamplingParams()
    made = Sample(text.tokens, prompt, first, law.temperature, 0, torch.cat(features), ids, logprobs)
    return dataclasses.replace(made, law=law if law.temperature else None)


def digest_of(texts: Sequence[LoggedText]) -> str:
    """Of tokens and laws: tells whether data were made from these texts."""
    content = json.dumps([(text.prompt_length, text.tokens, _law_of(text)) for text in texts])
    return hashlib.sha256(content.encode()).hexdigest()


def _law_of(text: LoggedText) -> object:
    return None if text.origin is None else law_to_values(text.origin.sampling)
