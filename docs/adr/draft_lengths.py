"""Replays recorded outputs with a real drafter: the adaptive draft length against every fixed one, per task.

``python docs/adr/draft_lengths.py outputs.jsonl [drafter]``, one line per output with ``prompt_ids``, ``output_ids``
(greedy) and ``task``. Nothing is random. Drafts are there at once; a step costs what its rows take on two cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as File

from paceline.config.settings import DrafterSettings
from paceline.core.ports import Drafter
from paceline.core.types import DraftJob, Profile, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters import create_drafter
from paceline.speculation.draft_length import AcceptanceLearner, StepCost, choose_lengths
from paceline.speculation.draft_tree import Path
from paceline.speculation.profiles import PRIORS

LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
MILLISECONDS = {1: 12.3, 4: 12.3, 8: 14.2, 12: 15.6, 17: 17.4}
"""A step of SmolLM2-135M in bfloat16 on two cores, by rows."""

Choose = Callable[[Path], int]


@dataclass(frozen=True, slots=True)
class Output:
    """What the target said."""

    task: str
    prompt: Tokens
    tokens: Tokens


@dataclass(slots=True)
class Total:
    """Of one task under one policy."""

    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0


class Fixed:
    """Always this many, where they are there."""

    def __init__(self, length: int) -> None:
        self._length = length

    def begin(self) -> None:
        """Nothing to forget."""

    def choose(self, path: Path) -> int:
        """The same for every path."""
        return min(self._length, len(path))

    def verified(self, path: Path, accepted: int, rows: int, seconds: float) -> None:
        """Nothing to learn."""


class Adaptive(Fixed):
    """What the verifier does."""

    def __init__(self, profile: Profile = Profile.AUTO) -> None:
        super().__init__(PRIORS[profile].max_draft)
        self._prior, self._cost = PRIORS[profile], StepCost()
        self.begin()

    def begin(self) -> None:
        """Sessions learn for themselves."""
        self._learner = AcceptanceLearner(self._prior)

    def choose(self, path: Path) -> int:
        """As many as pay."""
        return choose_lengths([self._learner.chances(path)[: self._length]], 1, self._length, self._cost)[0]

    def verified(self, path: Path, accepted: int, rows: int, seconds: float) -> None:
        """Outcome and time."""
        self._cost.observe(rows, seconds)
        if path:
            self._learner.observe(path, accepted)
        else:
            self._learner.relax()


def read(file: File) -> list[Output]:
    """All outputs with at least two tokens."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    outputs = [Output(row["task"], tuple(row["prompt_ids"]), tuple(row["output_ids"])) for row in rows]
    return [one for one in outputs if len(one.tokens) > 1]


def step_seconds() -> list[float]:
    """By rows, from 0."""
    cost = StepCost()
    for rows, milliseconds in MILLISECONDS.items():
        cost.observe(rows, milliseconds / 1e3)
    return [cost.seconds(rows) for rows in range(max(MILLISECONDS) + 1)]


def replay(drafter: Drafter, output: Output, policy: Fixed, total: Total, times: Sequence[float]) -> None:
    """One session; its first token comes from the prompt's own step."""
    text = output.prompt + output.tokens
    drafter.open(SessionSpec("s", output.prompt, len(output.prompt), SamplingParams(), StopRules(len(text))))
    policy.begin()
    position = len(output.prompt) + 1
    while position < len(text):
        guess = drafter.extend([DraftJob("s", text[:position], position, max(LENGTHS))])[0]
        path = Path(guess.token_ids, guess.confidences or (None,) * len(guess.token_ids))
        length = policy.choose(path)
        checked = Path(path.token_ids[:length], path.confidences[:length])
        right = [a == b for a, b in zip(checked.token_ids, text[position:], strict=False)]
        accepted = right.index(False) if False in right else len(right)
        policy.verified(checked, accepted, 1 + length, times[1 + length])
        total.tokens += min(accepted + 1, len(text) - position)
        total.steps += 1
        total.seconds += times[1 + length]
        position += accepted + 1
    drafter.close("s")


def measure(name: str, outputs: Sequence[Output], policy: Fixed) -> dict[str, Total]:
    """Totals by task."""
    drafter, times = create_drafter(DrafterSettings(drafter=name)), step_seconds()
    totals: dict[str, Total] = {}
    for output in outputs:
        replay(drafter, output, policy, totals.setdefault(output.task, Total()), times)
    return totals


def main() -> None:
    """One table."""
    outputs, name = read(File(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else "suffix"
    fixed = {length: measure(name, outputs, Fixed(length)) for length in LENGTHS}
    auto = measure(name, outputs, Adaptive())
    lines = [
        "| task | best fixed length | its tokens/s | auto, tokens/s | share | tokens/step |",
        "|---|---|---|---|---|---|",
    ]
    for task, total in sorted(auto.items()):
        speeds = {length: by_task[task].tokens / by_task[task].seconds for length, by_task in fixed.items()}
        best, speed = max(speeds, key=lambda length: speeds[length]), total.tokens / total.seconds
        cells = (task, best, f"{speeds[best]:.1f}", f"{speed:.1f}", f"{speed / speeds[best]:.3f}")
        lines.append("| " + " | ".join(map(str, (*cells, f"{total.tokens / total.steps:.2f}"))) + " |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
