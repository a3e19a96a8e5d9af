"""Mean acceptance length of drafters on prompts, by replaying the target's own texts: no services, no network.

    python docs/training/judge.py --prompts deploy/prompts/spec_bench_dev.jsonl --drafters suffix,mtp,mix:mtp+suffix

The target answers every prompt once (first turns), its hidden states are kept in memory; each drafter then guesses
along these texts as it would in service (``paceline.training.evaluate``). The target's own token counts.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch

from paceline.cli.prompts import PromptRow, read_prompts
from paceline.config.settings import DrafterSettings
from paceline.drafters import create_drafter
from paceline.drafters.packaged import packaged_drafter
from paceline.models.loading import choose_dtype, load, prepare
from paceline.models.runner import ModelRunner
from paceline.text.tokenizer import Tokenizer
from paceline.training.evaluate import Score, replay
from paceline.training.generate import Generator, Job, Sample
from paceline.training.subject import default_taps

SLOTS = 48


def answers(target: str, rows: list[PromptRow], max_tokens: int, temperature: float) -> list[Sample]:
    """The target's texts, in the order of the prompts."""
    directory = prepare(target)
    loaded = load(directory, choose_dtype("auto"), max_context=2048)
    tokenizer, taps = Tokenizer.load(directory), default_taps(loaded.num_layers)
    jobs = [
        (index, Job(tokenizer.chat((("user", row.text),)), temperature, max_tokens, seed=index))
        for index, row in enumerate(rows)
    ]
    return [sample for _, sample in sorted(Generator(ModelRunner(loaded, SLOTS), taps=taps).run(jobs), key=_index)]


def _index(entry: tuple[int, Sample]) -> int:
    return entry[0]


def judge(spec: str, model: str, rows: list[PromptRow], samples: list[Sample], block: int) -> dict[str, float]:
    """τ by task, and their mean."""
    drafter = create_drafter(DrafterSettings(drafter=spec, model=model, threads=torch.get_num_threads()))
    scores: dict[str, Score] = defaultdict(Score)
    for row, score in zip(rows, replay(drafter, samples, block), strict=True):
        scores[row.task] += score
    taus = {task: score.tau for task, score in scores.items()}
    return {**taus, "mean": sum(taus.values()) / len(taus)}


def main() -> None:
    """One line of JSON per drafter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--drafters", default="suffix,mtp,mix:mtp+suffix", help="parts of a mix are joined with +")
    parser.add_argument("--model", default=str(packaged_drafter("smollm2")), help="what a trained drafter loads")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="with top-k 64, as training texts are sampled")
    parser.add_argument("--block", type=int, default=16, help="tokens of a guess at most")
    args = parser.parse_args()
    rows = read_prompts(args.prompts, args.limit)
    samples = answers(args.target, rows, args.max_tokens, args.temperature)
    for spec in args.drafters.split(","):
        taus = judge(spec, args.model, rows, samples, args.block)
        print(json.dumps({"drafter": spec, **{task: round(tau, 2) for task, tau in taus.items()}}))  # noqa: T201


if __name__ == "__main__":
    main()
