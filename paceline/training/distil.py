"""Regenerates text with the target: greedy and sampled answers to prompts, with hidden states, into shards on disk.

Prompts that are done are skipped, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paceline.core.errors import InvalidRequest
from paceline.core.types import Tokens
from paceline.models.runner import ModelRunner
from paceline.text.tokenizer import Tokenizer
from paceline.training.generate import Generator, Job
from paceline.training.prompts import TrainingPrompt
from paceline.training.shards import ShardWriter, done_prompts

HISTORY = 64
"""Prompt positions whose hidden states are kept."""
NUM_TOP = 16
"""Likeliest tokens kept per output position."""


@dataclass(frozen=True, slots=True)
class DistilOptions:
    """How to regenerate."""

    max_tokens: int = 128
    sampled_share: float = 0.3
    """Share of the prompts that are answered at ``temperature``; the others greedily."""
    temperature: float = 0.8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """Progress."""

    num_prompts: int
    total: int
    num_tokens: int
    """Output tokens."""


def prompt_ids(prompts: Sequence[TrainingPrompt], directory: Path) -> list[Tokens]:
    """Token ids, in the model's own chat template where it has one."""
    if all(prompt.token_ids for prompt in prompts):  # such a target needs no tokenizer
        return [prompt.token_ids for prompt in prompts]
    tokenizer = Tokenizer.load(directory)
    return [prompt.token_ids or _encode(prompt, tokenizer) for prompt in prompts]


def _encode(prompt: TrainingPrompt, tokenizer: Tokenizer) -> Tokens:
    if tokenizer.has_chat_template:
        return tokenizer.chat(prompt.messages)
    return tokenizer.encode("\n".join(text for _, text in prompt.messages))


def distil(
    runner: ModelRunner,
    prompts: Sequence[Tokens],
    directory: Path,
    options: DistilOptions,
    *,
    taps: tuple[int, ...],
    tell: Callable[[Made], None],
) -> None:
    """Answer all prompts that are not in ``directory`` yet. Raises ``InvalidRequest``, ``ResourceExhausted``."""
    _check(prompts, runner, options)
    done = done_prompts(directory)
    _compare(prompts, done, directory)
    writer = ShardWriter(directory)
    generator = Generator(runner, taps=taps, history=HISTORY, num_top=NUM_TOP)
    num_prompts, num_tokens = len(done), 0
    for index, sample in generator.run(_jobs(prompts, done, options, runner.loaded.max_context)):
        writer.add(index, sample)
        num_prompts, num_tokens = num_prompts + 1, num_tokens + len(sample.tokens) - sample.prompt_length
        tell(Made(num_prompts, len(prompts), num_tokens))
    writer.close()


def _jobs(
    prompts: Sequence[Tokens], done: Collection[int], options: DistilOptions, max_context: int
) -> Iterator[tuple[int, Job]]:
    is_sampled = np.random.default_rng(options.seed).random(len(prompts)) < options.sampled_share
    for index, prompt in enumerate(prompts):
        if index not in done:
            room = max_context - options.max_tokens
            temperature = options.temperature if is_sampled[index] else 0.0
            yield index, Job(prompt[-room:], temperature, options.max_tokens, seed=index)


def _compare(prompts: Sequence[Tokens], done: Mapping[int, Tokens], directory: Path) -> None:
    """Prompts are known by their place, so those that are done must be where they were."""
    for index, prompt in done.items():
        if index >= len(prompts) or prompts[index][-len(prompt) :] != prompt:
            raise InvalidRequest(
                f"data: {directory} has an answer to another prompt {index + 1}; give the same --prompts (others may "
                "follow them), or another --data."
            )


def _check(prompts: Sequence[Tokens], runner: ModelRunner, options: DistilOptions) -> None:
    if options.max_tokens >= runner.loaded.max_context:
        raise InvalidRequest(
            f"max_tokens: {options.max_tokens} leave no room for a prompt, the context has "
            f"{runner.loaded.max_context} tokens; lower it."
        )
    for number, prompt in enumerate(prompts, start=1):
        bad = next((token for token in prompt if token >= runner.loaded.vocab_size), None)
        if bad is not None:
            raise InvalidRequest(
                f"prompts: token {bad} of prompt {number} is outside the target's vocabulary of "
                f"{runner.loaded.vocab_size}; use prompts made for this target."
            )
