"""Asking and checking as the verifier does, on what the shipped mix says of SmolLM2's own texts: six tasks, six each.

``data/traces.json`` is made by ``docs/training/traces.py`` (which explains its words) from the development prompts.
Times are those of SmolLM2-135M on two cores: a step grows by its rows and by what they read, a call of the drafter by
the tokens of its network. Everything is learned from nothing, from times with a noise of a twentieth; what counts is
the true time. A fixed length asks for so many tokens and checks all that come.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path as File

import pytest

from paceline.core.types import Profile
from paceline.speculation.draft_length import AcceptanceLearner, StepCost, choose_lengths
from paceline.speculation.draft_tree import Path
from paceline.speculation.profiles import PRIORS
from paceline.speculation.resident import Answer, ResidentPolicy, Seeker

FIXED = (0, 1, 2, 3, 4, 6, 8, 12, 16)
LONGEST, SEED = 16, 1
TASKS = ("math_reasoning", "mt_bench", "qa", "rag", "summarization", "translation")

CallTime = Callable[[int, int], float]
"""Seconds of a call, by tokens asked for and tokens that the network would guess."""


def step_s(rows: int, depth: int) -> float:
    return 0.020 + 0.35e-3 * (rows - 1) + 0.93e-6 * rows * depth


def call_s(asked: int, of_network: int) -> float:
    return 0.002 + 0.001 * max(1, min(asked, of_network))


@dataclass(frozen=True, slots=True)
class Say:
    """What the drafter says at a position."""

    confidences: tuple[float, ...]
    right: int
    of_network: int


@dataclass(frozen=True, slots=True)
class Text:
    prompt_length: int
    says: tuple[Say, ...]


@cache
def texts(task: str) -> tuple[Text, ...]:
    recorded = json.loads((File(__file__).parent / "data" / "traces.json").read_text("utf-8"))[task]
    return tuple(Text(one["prompt_length"], tuple(_say(word) for word in one["words"].split())) for one in recorded)


def _say(word: str) -> Say:
    digits = word[2:]
    confidences = tuple(int(digits[i : i + 2]) / 100 for i in range(0, len(digits), 2))
    return Say(confidences, int(word[0], 36), int(word[1], 36))


@dataclass(slots=True)
class Total:
    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def fixed(task: str, length: int, call: CallTime = call_s) -> float:
    total = Total()
    for text in texts(task):
        position = 0
        while position < len(text.says):
            say = text.says[position]
            checked = min(length, len(say.confidences))
            made = min(min(say.right, checked) + 1, len(text.says) - position)
            total.tokens += made
            total.seconds += step_s(1 + checked, text.prompt_length + position)
            total.seconds += call(length, say.of_network) if length else 0.0
            position += made
    return total.rate


@cache
def best_fixed(task: str, call: CallTime = call_s) -> float:
    return max(fixed(task, length, call) for length in FIXED)


class Verifier:
    """What a verifier process with a resident drafter decides and learns."""

    def __init__(self, call: CallTime = call_s) -> None:
        self._call, self._draw = call, random.Random(SEED)
        self._cost, self._policy = StepCost(), ResidentPolicy()
        self.num_steps = self.num_asked = 0

    def run(self, name: str, text: Text, *, is_useless: bool = False) -> Total:
        """One session to its end."""
        total, position, learner = Total(), 0, AcceptanceLearner(PRIORS[Profile.AUTO])
        self._policy.join(name, Profile.AUTO)
        while position < len(text.says):
            say = text.says[position]
            say = Say(say.confidences, 0, say.of_network) if is_useless else say
            made, seconds = self._step(name, learner, say, text.prompt_length + position, len(text.says) - position)
            total.tokens += made
            total.seconds += seconds
            position += made
        self._policy.forget(name)
        return total

    def _step(self, name: str, learner: AcceptanceLearner, say: Say, depth: int, left: int) -> tuple[int, float]:
        seekers = [Seeker(name, 0, min(LONGEST, left - 1))] if left > 1 else []
        asked = self._policy.choose(seekers, 1, self._cost.at(depth)).get(name, 0)
        drafting_s = self._call(asked, say.of_network) if asked else 0.0
        if asked:
            self._policy.called(1, asked, self._noisy(drafting_s))
        path = Path(tuple(range(LONGEST)), say.confidences).first(min(asked, len(say.confidences)))
        checked = choose_lengths([learner.chances(path)], 1, len(path), self._cost.at(depth, drafting_s))[0]
        made = min(min(say.right, checked) + 1, left)
        right = min(say.right, made, len(path))
        if path:
            learner.observe(path.first(made), right)
        else:
            learner.relax()
        self._cost.observe(1 + checked, self._noisy(step_s(1 + checked, depth)), depth)
        if asked:
            self._policy.answered(name, Answer(asked, checked, right, made))
        self.num_steps, self.num_asked = self.num_steps + 1, self.num_asked + bool(asked)
        return made, drafting_s + step_s(1 + checked, depth)

    def _noisy(self, seconds: float) -> float:
        return seconds * self._draw.uniform(0.95, 1.05)


def in_turns(tasks: Sequence[str]) -> Iterator[tuple[str, str, Text]]:
    for number in range(len(texts(tasks[0]))):
        for task in tasks:
            yield task, f"{task} {number}", texts(task)[number]


def rates(verifier: Verifier, tasks: Sequence[str]) -> dict[str, float]:
    totals = {task: Total() for task in tasks}
    for task, name, text in in_turns(tasks):
        one = verifier.run(name, text)
        totals[task].tokens += one.tokens
        totals[task].seconds += one.seconds
    return {task: total.rate for task, total in totals.items()}


def test_sessions_of_all_tasks_in_turns_are_within_five_percent_of_the_best_fixed_length_of_each() -> None:
    shares = {task: rate / best_fixed(task) for task, rate in rates(Verifier(), TASKS).items()}
    assert {task: share for task, share in shares.items() if share < 0.95} == {}


@pytest.mark.parametrize("task", TASKS)
def test_so_are_those_of_one_task_in_a_process_of_their_own(task: str) -> None:
    assert rates(Verifier(), [task])[task] > 0.95 * best_fixed(task)


def test_short_and_long_fixed_lengths_lose_a_tenth_at_some_task() -> None:
    worst = {length: min(fixed(task, length) / best_fixed(task) for task in TASKS) for length in FIXED}
    assert {length for length, share in worst.items() if share < 0.9} == {0, 1, 2, 3, 4, 16}


def test_a_drafter_that_helps_is_asked_at_nearly_every_step() -> None:
    verifier = Verifier()
    rates(verifier, TASKS)
    assert verifier.num_asked > 0.95 * verifier.num_steps


def slow_beginning(num_calls: int) -> CallTime:
    """So many calls a hundred times too slow, then as ever."""
    calls: list[int] = []

    def call(asked: int, of_network: int) -> float:
        calls.append(asked)
        return call_s(asked, of_network) * (100 if len(calls) <= num_calls else 1)

    return call


@pytest.mark.parametrize("num_calls", [1, 2, 3])
def test_calls_that_are_a_hundred_times_too_slow_at_first_silence_nobody_for_long(num_calls: int) -> None:
    verifier = Verifier(slow_beginning(num_calls))
    first, *others = [text for _, _, text in in_turns(TASKS)]
    verifier.run("first", first)
    for number, text in enumerate(others[:5]):
        verifier.run(f"next {number}", text)
    verifier.num_asked = verifier.num_steps = 0
    for number, text in enumerate(others[5:15]):
        verifier.run(f"late {number}", text)
    assert verifier.num_asked > 0.95 * verifier.num_steps


@pytest.mark.parametrize("call_s", [0.003, 0.030, 0.300])
def test_a_drafter_that_is_never_right_costs_some_three_percent_and_its_first_calls(call_s: float) -> None:
    verifier, total, plain_s = Verifier(lambda asked, of_network: call_s), Total(), 0.0
    for _, name, text in in_turns(TASKS):
        one = verifier.run(name, text, is_useless=True)
        total.seconds += one.seconds
        plain_s += sum(step_s(1, text.prompt_length + position) for position in range(len(text.says)))
    assert total.seconds < 1.035 * plain_s + 4 * call_s + 0.2


def dear(asked: int, of_network: int) -> float:
    """One that is paid by the token, like a language model."""
    return 0.001 + 0.003 * asked


def test_where_every_token_asked_for_costs_few_are_asked_for_and_speed_is_that_of_the_best_fixed_length() -> None:
    shares = {task: rate / best_fixed(task, dear) for task, rate in rates(Verifier(dear), TASKS).items()}
    assert min(shares.values()) > 0.9
    assert sum(shares.values()) / len(shares) > 0.97
    assert min(fixed(task, LONGEST, dear) / best_fixed(task, dear) for task in TASKS) < 0.7
