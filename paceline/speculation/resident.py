"""When to ask a drafter that computes in the verifier's own time, and for how many tokens. Pure.

A call holds up every session of the step. So the same goodput that decides how many drafts a step checks decides here,
with the time of the call in it: ask those sessions for that many tokens for which

    expected tokens / (seconds of the call + seconds of the step)

is largest, nobody if that is not asking. All of it is learned: what a call costs by sessions and tokens asked for, how
many tokens of an answer are right and how many get checked, by place. Whoever doesn't pay is asked again out of an
allowance, a small share of the time that goes by, so that a drafter which can't help costs that share at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paceline.core.types import Profile
from paceline.speculation.draft_length import NUM_FIRST, Cost, StepCost, choose_lengths, size_class
from paceline.speculation.ladder import Ladder

TOTALS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64, 128, 256)
"""Tokens that may be pending after an answer."""
TOKEN_COST = 1.0
"""Until it was measured, a token more is taken to cost half of what a call for one does: short answers look cheap
enough to be tried."""
ALLOWANCE = 0.02
"""Share of the time that is spent on trying again."""
OVERDRAFT_STEPS = 4.0
"""Plain steps that the allowance must hold for a try, however dear, or twice what the last try took: a price that is
wrong is soon corrected. What the try really took is owed."""


class CallCost:
    """Seconds of a call by sessions and by tokens asked for each, learned: for each number of sessions a curve."""

    def __init__(self) -> None:
        self._curves: dict[int, StepCost] = {}
        self.num_calls = 0

    def observe(self, num_sessions: int, num_tokens: int, seconds: float) -> None:
        """A call took this long."""
        curve = self._curves.setdefault(size_class(num_sessions), StepCost(row_cost=TOKEN_COST))
        curve.observe(num_tokens, seconds)
        self.num_calls += 1

    def seconds(self, num_sessions: int, num_tokens: int) -> float:
        """Expected, once something was seen: a session more is taken to cost half of what a call for one does."""
        size = size_class(num_sessions)
        known = max((one for one in self._curves if one <= size), default=min(self._curves))
        return self._curves[known].seconds(num_tokens) * (1.0 + size) / (1.0 + known)


@dataclass(frozen=True, slots=True)
class Seeker:
    """A session that could ask."""

    session: str
    pending: int
    """Drafts that are there already."""
    room: int
    """Tokens that it may ask for beyond them; at least 1."""

    def total(self, most: int) -> int:
        """Drafts there at most after it asked, if nobody asks for more than ``most`` in all."""
        return min(max(most, self.pending), self.pending + self.room)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one."""

    asked: int
    """Drafts that could have been there after it, those before it included,"""
    checked: int
    """how many of them the step checked,"""
    right: int
    """and how many agree with the committed tokens, checked or not."""
    committed: int
    """Tokens that the step committed."""


class _Worth:
    """What drafts bring, and how many of them are found worth a row."""

    def __init__(self, base: _Worth | None = None) -> None:
        self.right: Ladder = Ladder(base.right if base else None)
        self.checked: Ladder = Ladder(base.checked if base else None)

    def learn(self, answer: Answer) -> None:
        """Drafts that were never made count like wrong ones."""
        self.right.climb(answer.right, min(answer.committed, answer.asked))
        self.checked.climb(answer.checked, answer.asked)


@dataclass(frozen=True, slots=True)
class _Choice:
    goodput: float
    asked: Sequence[Seeker] = ()
    most: int = 0


class ResidentPolicy:
    """New sessions begin with what others of their profile showed; one policy per drafter."""

    def __init__(self) -> None:
        self._calls = CallCost()
        self._usual: dict[Profile, _Worth] = {}
        self._own: dict[str, _Worth] = {}
        self._allowance_s = 0.0
        self._is_trying = False
        self._tried_s = math.inf

    def join(self, session: str, profile: Profile) -> None:
        """It may ask from now on."""
        self._own[session] = _Worth(self._usual.setdefault(profile, _Worth()))

    def forget(self, session: str) -> None:
        """It has ended."""
        self._own.pop(session, None)

    def choose(self, seekers: Sequence[Seeker], num_ready: int, cost: Cost) -> dict[str, int]:
        """Tokens to ask for now, by session; ``num_ready`` sessions, these among them, would wait for the answer."""
        if not seekers:
            return {}
        longest = max(one.pending + one.room for one in seekers)
        best = _Choice(0.0, seekers, longest)
        if self._calls.num_calls >= NUM_FIRST:  # first calls pay for more than themselves, and say nothing
            best = self._best(seekers, num_ready, cost, longest)
            is_all = len(best.asked) == len(seekers) and best.most == longest
            if not is_all and self._may_try(len(seekers), longest, cost.seconds(num_ready)):
                best = _Choice(0.0, seekers, longest)
        return {one.session: one.total(best.most) - one.pending for one in best.asked}

    def _best(self, seekers: Sequence[Seeker], num_ready: int, cost: Cost, longest: int) -> _Choice:
        mosts = [most for most in TOTALS if most < longest] + [longest]
        tokens = rows = float(num_ready)
        gains: list[list[tuple[float, float, Seeker]]] = [[] for _ in mosts]
        for one in seekers:
            totals = [one.pending, *(one.total(most) for most in mosts)]
            worth = self._own[one.session]
            right, checked = worth.right.heights(totals), worth.checked.heights(totals)
            tokens, rows = tokens + right[0], rows + checked[0]
            for index, line in enumerate(gains, start=1):
                if totals[index] > one.pending:
                    line.append((right[index] - right[0], checked[index] - checked[0], one))
        best = _Choice(tokens / cost.seconds(rows))
        for most, line in zip(mosts, gains, strict=True):
            line.sort(key=lambda gain: gain[0], reverse=True)
            best = self._extended(best, most, line, (tokens, rows), cost)
        return best

    def _extended(
        self,
        best: _Choice,
        most: int,
        line: Sequence[tuple[float, float, Seeker]],
        without: tuple[float, float],
        cost: Cost,
    ) -> _Choice:
        """``best``, or asking the first few of ``line`` if that is better; ``without`` are tokens and rows if not."""
        tokens, rows = without
        asked = [one for _, _, one in line]
        num_tokens = max((one.total(most) - one.pending for one in asked), default=0)
        for count, (gain, more, _) in enumerate(line, start=1):
            tokens, rows = tokens + gain, rows + more
            goodput = tokens / (self._calls.seconds(count, num_tokens) + cost.seconds(rows))
            if goodput > best.goodput:
                best = _Choice(goodput, asked[:count], most)
        return best

    def _may_try(self, num_sessions: int, num_tokens: int, plain_s: float) -> bool:
        """Whether to ask everybody for everything, though that doesn't seem to pay."""
        self._allowance_s += ALLOWANCE * plain_s
        price_s = min(self._calls.seconds(num_sessions, num_tokens), 2 * self._tried_s, OVERDRAFT_STEPS * plain_s)
        self._is_trying = self._allowance_s >= price_s
        return self._is_trying

    def called(self, num_sessions: int, num_tokens: int, seconds: float) -> None:
        """A call for so many sessions, at most so many tokens each, took this long."""
        self._calls.observe(num_sessions, num_tokens, seconds)
        if self._is_trying:
            self._allowance_s -= seconds
            self._tried_s, self._is_trying = seconds, False

    def answered(self, session: str, answer: Answer) -> None:
        """The step after a call ended."""
        self._own[session].learn(answer)


def can_drafts_pay(num_sessions: int, budget: int, cost: Cost) -> bool:
    """Whether a step has time for a draft at all: false where even a sure one costs more than it brings."""
    return any(choose_lengths([[1.0]] * num_sessions, num_sessions, budget - num_sessions, cost))
