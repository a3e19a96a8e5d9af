"""Texts that were served as training data: logged tokens run through the target again, for what it thought of them.

Only texts that the log has from their beginning on: of others the target saw more than can be shown to it again. How
they were drawn is not logged, so that they count as greedy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from paceline.core.errors import InvalidRequest
from paceline.models.runner import Feed, ModelRunner
from paceline.training.distil import HISTORY, NUM_TOP, Made
from paceline.training.generate import Sample, top_tokens
from paceline.training.shards import ShardWriter
from paceline.training.subject import SHORTEST_OUTPUT
from paceline.training.verdicts import LoggedText, merge, read_verdicts

PIECE = 256
"""Tokens per forward pass."""
SESSION = "recalled"


def logged_texts(log: Path, runner: ModelRunner) -> list[LoggedText]:
    """Those that can be learned from, cut to the target's context.

    Raises ``NotFound`` and ``InvalidRequest``, also for a log of a target with more tokens.
    """
    texts = []
    for text in merge(read_verdicts(log)):
        tokens = text.tokens[: runner.loaded.max_context]
        odd = next((token for token in tokens if token >= runner.loaded.vocab_size), None)
        if odd is not None:
            raise InvalidRequest(
                f"from-log: token {odd} of session {text.session} is outside the target's vocabulary of "
                f"{runner.loaded.vocab_size}; give the --target that the log is of."
            )
        cut = dataclasses.replace(text, tokens=tokens)
        if text.start == 0 and 0 < cut.num_prompt <= len(tokens) - SHORTEST_OUTPUT:
            texts.append(cut)
    return texts


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
    return Sample(text.tokens, prompt, first, 0.0, 0, torch.cat(features), ids, logprobs)


def digest_of(texts: Sequence[LoggedText]) -> str:
    """Of the tokens: tells whether data were made from these texts."""
    content = json.dumps([(text.prompt_length, text.tokens) for text in texts])
    return hashlib.sha256(content.encode()).hexdigest()
