"""Records what the mix says of the target's texts, position by position, for simulations of the draft length.

    python docs/training/traces.py --prompts deploy/prompts/spec_bench_dev.jsonl --limit 30 --out traces.json

The target answers every prompt greedily; then the drafters are asked at every position of the answer, as if a step had
just ended there. No text is kept: per task a list of texts, each with the length of its prompt and a word per position,

    <number of tokens that are right, base 36> <tokens by the first part, base 36> <confidence of each, two digits>

without the spaces. What the mix learns online, it learns where steps of 16 drafts would have ended.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from judge import answers

from paceline.cli.prompts import read_prompts
from paceline.config.settings import DrafterSettings
from paceline.core.ports import Drafter
from paceline.core.types import DraftJob, FeatureFrame, Guess, SessionSpec, StopRules
from paceline.drafters import create_drafter
from paceline.drafters.packaged import packaged_drafter
from paceline.speculation.merging import Merger, Opinion
from paceline.speculation.trust import SessionTrust, SharedTrust
from paceline.training.generate import Sample

BLOCK = 16
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Recorder:
    """Asks all parts at every position of one text, and merges what they say."""

    def __init__(self, parts: Sequence[Drafter], shared: SharedTrust, sample: Sample) -> None:
        self._parts, self._sample = parts, sample
        first = sample.prompt_length + 1
        self._merger = Merger(SessionTrust(shared), first)
        self._sent = sample.features_start
        spec = SessionSpec("s", sample.tokens[:first], sample.prompt_length, sample.sampling, StopRules(1))
        for part in parts:
            part.open(spec)

    def words(self) -> Iterator[str]:
        """From the second token of the answer on."""
        position, end = self._sample.prompt_length + 1, len(self._sample.tokens)
        while position < end:
            right, word = self._ask(self._merger, position)
            yield word
            for between in range(position + 1, min(position + right + 1, end)):
                yield self._ask(copy.deepcopy(self._merger), between)[1]
            position += right + 1
        for part in self._parts:
            part.close("s")

    def _ask(self, merger: Merger, position: int) -> tuple[int, str]:
        """Tokens that are right, and all as a word."""
        job = DraftJob("s", self._sample.tokens[:position], position, BLOCK, self._frames(position - 1))
        merger.advance(job)
        guesses: list[Guess] = [part.extend([job])[0] for part in self._parts]
        merged = merger.merge(job, [Opinion(number, guess) for number, guess in enumerate(guesses)])
        right = 0
        for token, said in zip(merged.token_ids, self._sample.tokens[position:], strict=False):
            if token != said:
                break
            right += 1
        confidences = "".join(f"{min(99, round(100 * one)):02d}" for one in merged.confidences)
        return right, DIGITS[right] + DIGITS[len(guesses[0].token_ids)] + confidences

    def _frames(self, end: int) -> tuple[FeatureFrame, ...]:
        """Hidden states of the positions below ``end`` that were not handed over yet."""
        features, start = self._sample.features, self._sent
        if features is None or end <= start:
            return ()
        rows = features[start - self._sample.features_start : end - self._sample.features_start]
        self._sent = end
        return (FeatureFrame(start, len(rows), rows.contiguous().view(torch.uint8).numpy().tobytes()),)


def main() -> None:
    """One JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--drafters", default="mtp,suffix", help="parts of the mix")
    parser.add_argument("--model", default=str(packaged_drafter("smollm2")), help="what a trained drafter loads")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = read_prompts(args.prompts, args.limit)
    samples = answers(args.target, rows, args.max_tokens, 0.0)
    parts = [
        create_drafter(DrafterSettings(drafter=name, model=args.model, threads=torch.get_num_threads()))
        for name in args.drafters.split(",")
    ]
    shared, texts = SharedTrust(), defaultdict(list)
    for row, sample in zip(rows, samples, strict=True):
        words = list(Recorder(parts, shared, sample).words())
        texts[row.task].append({"prompt_length": sample.prompt_length, "words": " ".join(words)})
    args.out.write_text(json.dumps(texts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
