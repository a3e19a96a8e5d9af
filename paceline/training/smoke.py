"""``paceline train --smoke``: the whole way from a target to a judged drafter, in a minute and without any download.

The language has two voices that take turns; each goes its own way through its own words, so that a text is settled by
its first two words and yet pairs of words seldom come back: looking up what followed last time finds little, learning
finds much. A small target learns it by heart, then everything is as with any other target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from paceline.drafters.ngram import NgramDrafter
from paceline.training.distil import DistilOptions
from paceline.training.evaluate import TOGETHER, Score, judge
from paceline.training.loop import Schedule
from paceline.training.run import Listener, Plan, run
from paceline.training.subject import Trained, TrainOptions, read_samples

FIRST_WORD, WORDS = 3, 64
"""Ids of the first voice's words start here, those of the second follow; the ids below are for the model's use."""
VOCAB = FIRST_WORD + 2 * WORDS
TEXT = 64
"""Tokens of a text that the target learns from."""
TARGET_BATCH, TARGET_RATE = 16, 1e-2
DRAFTER_RATE = 6e-3
STEPS = {"mtp": 80, "medusa": 400, "draft-model": 160}
"""What needs more of them has shorter ones."""
PROMPT, ANSWER = 8, 56


@dataclass(frozen=True, slots=True)
class SmokeOptions:
    """How much of everything; the defaults take about a minute on one core."""

    target_steps: int = 220
    prompts: int = 200
    steps: int = 0
    """Of the drafter's training; 0 is what its kind needs."""
    block: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """Both drafters on the same held-out texts."""

    trained: Trained
    lookup: Score
    """Of prompt lookup."""

    @property
    def is_better(self) -> bool:
        """The drafter that learned gets further per step."""
        return self.trained.held_out.tau > self.lookup.tau


class Language:
    """Texts of two voices whose words follow each other as one seed settles."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._after = np.arange(VOCAB)
        for start in (FIRST_WORD, FIRST_WORD + WORDS):
            self._after[start : start + WORDS] = start + rng.permutation(WORDS)

    def texts(self, count: int, length: int, seed: int) -> NDArray[np.int64]:
        """[count, length] token ids."""
        rng = np.random.default_rng(seed)
        first = rng.integers(FIRST_WORD, FIRST_WORD + WORDS, count)
        columns = [first, rng.integers(FIRST_WORD + WORDS, VOCAB, count)]
        while len(columns) < length:
            columns.append(self._after[columns[-2]])
        return np.stack(columns, 1)


def smoke(kind: str, directory: Path, options: SmokeOptions, command: str, listener: Listener) -> SmokeResult:
    """Everything in ``directory``, which should be new: target, prompts, data and the drafter."""
    language = Language(options.seed)
    listener.stage(f"a small target learns a made-up language, {options.target_steps} steps")
    write_target(directory / "target", language, options, listener.stage)
    prompts = directory / "prompts.jsonl"
    prompts.write_text("".join(f"{line}\n" for line in _prompt_lines(language, options)), "utf-8")
    trained = run(plan(kind, directory, prompts, options, command), listener)
    _, held = read_samples(directory / "data")
    return SmokeResult(trained, judge(NgramDrafter(TOGETHER), held, options.block).total)


def plan(kind: str, directory: Path, prompts: Path, options: SmokeOptions, command: str) -> Plan:
    """As for any other target, with steps instead of minutes."""
    schedule = Schedule(minutes=0.0, steps=options.steps or STEPS[kind], rate=DRAFTER_RATE, rows=768, seed=options.seed)
    return Plan(
        kind=kind,
        target=str(directory / "target"),
        prompts=(prompts,),
        out=directory / "drafter",
        data=directory / "data",
        distil=DistilOptions(max_tokens=ANSWER, seed=options.seed),
        train=TrainOptions(options.block, VOCAB, schedule),
        command=command,
    )


def _prompt_lines(language: Language, options: SmokeOptions) -> Iterator[str]:
    for tokens in language.texts(options.prompts, PROMPT, options.seed + 1).tolist():
        yield json.dumps({"token_ids": tokens, "source": "made up"})


def write_target(directory: Path, language: Language, options: SmokeOptions, tell: Callable[[str], None]) -> None:
    """A Llama of three layers that has learned the language, as safetensors."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    model: Any = LlamaForCausalLM(_config())
    steps = options.target_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=TARGET_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, TARGET_RATE, total_steps=steps)
    for step in range(steps):
        tokens = torch.from_numpy(language.texts(TARGET_BATCH, TEXT, options.seed + 1000 + step))
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        rate.step()
        optimizer.zero_grad(set_to_none=True)
    tell(f"the target is left with a loss of {loss.item():.3f}")
    model.save_pretrained(directory)


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
    )
