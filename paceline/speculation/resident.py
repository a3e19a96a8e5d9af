"""When to ask a drafter that computes in the verifier's own time: only where its guesses are worth the wait. Pure.

A call of c seconds holds up every session of the step, as a wait does (``waiting``). With n sessions in the step, a
plain step of t_1 seconds and s_i the plain steps that an answer for session i saves, asking pays iff
t_1 * sum(s_i) > n * c. All are learned. A session that doesn't pay is asked again out of an allowance, a small share
of the time that goes by, so that a drafter which can't help costs that share at most, however slow it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.speculation.draft_length import StepCost, choose_lengths

RATE = 0.15
"""Weight of the newest observation, once there are some; the first ones count more."""
HOPE = 1.0
"""Plain steps that an answer is taken to save while nothing is known."""
SESSION_COST = 1.0
"""Before anything was measured, a session more is taken to cost half of what a call for one does."""
ALLOWANCE = 0.02
"""Share of the time that is spent on trying again."""


class _Mean:
    """Of a guess and all observations at first, of the latest ones later."""

    def __init__(self, value: float) -> None:
        self.value = value
        self._num = 0

    def add(self, observed: float) -> None:
        """One observation more."""
        self._num += 1
        self.value += max(RATE, 1.0 / (self._num + 1)) * (observed - self.value)


class ResidentPolicy:
    """What calls cost and what answers save, by session; new sessions begin with the average."""

    def __init__(self) -> None:
        self._calls = StepCost(row_cost=SESSION_COST)
        self._num_calls = 0
        self._usual = _Mean(HOPE)
        self._saved: dict[str, _Mean] = {}
        self._allowance_s = 0.0

    def choose(self, sessions: Sequence[str], num_ready: int, plain_s: float) -> list[str]:
        """Whom to ask for now, of the sessions that could be; ``num_ready`` of them and others would wait for it."""
        if self._num_calls < 2:  # the first call pays for more than itself, and says nothing
            return list(sessions)
        line = sorted(sessions, key=self._worth, reverse=True)
        count, best, gain_s = 0, 0.0, 0.0
        for index, session in enumerate(line, start=1):
            gain_s += plain_s * self._worth(session)
            profit = gain_s - num_ready * self._calls.seconds(index)
            if profit > best:
                count, best = index, profit
        return line if self._may_try(line, count, num_ready, plain_s) else line[:count]

    def _may_try(self, line: Sequence[str], count: int, num_ready: int, plain_s: float) -> bool:
        if count == len(line):
            return False
        self._allowance_s += ALLOWANCE * plain_s * num_ready
        price = num_ready * (self._calls.seconds(len(line)) - (self._calls.seconds(count) if count else 0.0))
        if self._allowance_s < price:
            return False
        self._allowance_s = 0.0
        return True

    def _worth(self, session: str) -> float:
        return self._saved.get(session, self._usual).value

    def called(self, num_sessions: int, seconds: float) -> None:
        """A call for so many sessions took this long."""
        self._num_calls += 1
        if self._num_calls > 1:
            self._calls.observe(num_sessions, seconds)

    def answered(self, session: str, saved: float) -> None:
        """The step after a call committed as much as ``saved`` plain steps more, less the time for its rows."""
        self._saved.setdefault(session, _Mean(self._usual.value)).add(saved)
        self._usual.add(saved)

    def forget(self, session: str) -> None:
        """It has ended."""
        self._saved.pop(session, None)


def can_drafts_pay(num_sessions: int, budget: int, cost: StepCost) -> bool:
    """Whether a step has time for a draft at all: false where even a sure one costs more than it brings."""
    return any(choose_lengths([[1.0]] * num_sessions, num_sessions, budget - num_sessions, cost))
