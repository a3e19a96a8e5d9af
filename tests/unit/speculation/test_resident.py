"""Asking the drafter next door: as long as it pays, and now and then when it did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from paceline.speculation.draft_length import StepCost
from paceline.speculation.resident import ALLOWANCE, ResidentPolicy, can_drafts_pay

PLAIN_S = 0.010


@dataclass
class Life:
    """Steps of sessions that all decode, with calls of a fixed price per session and answers of a given worth."""

    call_s: float
    saved: Callable[[str], float]
    sessions: tuple[str, ...] = ("s",)

    def __post_init__(self) -> None:
        self.policy = ResidentPolicy()
        self.asked: list[list[str]] = []

    def run(self, steps: int) -> Life:
        for _ in range(steps):
            chosen = self.policy.choose(self.sessions, len(self.sessions), PLAIN_S)
            self.asked.append(chosen)
            if chosen:
                self.policy.called(len(chosen), self.call_s * len(chosen))
            for session in chosen:
                self.policy.answered(session, self.saved(session))
        return self

    @property
    def spent(self) -> float:
        """Of the time of plain decoding."""
        return sum(self.call_s for one in self.asked if one) / (PLAIN_S * len(self.asked))


def test_a_drafter_that_pays_is_asked_at_every_step() -> None:
    life = Life(0.002, lambda _: 0.5).run(200)
    assert all(life.asked)


@pytest.mark.parametrize("call_s", [0.002, 0.010, 0.050, 1.0])
@pytest.mark.parametrize("saved", [0.0, -0.3])
def test_one_that_never_helps_costs_a_small_share_of_the_time_however_slow_it_is(call_s: float, saved: float) -> None:
    steps = max(1000, round(20 * call_s / PLAIN_S))
    beginning = 2 if call_s >= PLAIN_S else 20
    life = Life(call_s, lambda _: saved).run(steps)
    assert sum(map(bool, life.asked[:40])) <= beginning
    assert life.spent <= 1.1 * ALLOWANCE + beginning * call_s / (PLAIN_S * steps)


def test_a_useless_one_is_tried_again_and_wins_its_place_back_once_it_helps() -> None:
    life = Life(0.002, lambda _: 0.0).run(300)
    life.saved = lambda _: 2.0
    life.run(300)
    assert all(life.asked[-100:])


def test_only_those_sessions_are_asked_for_that_make_up_for_everybodys_wait() -> None:
    life = Life(0.004, lambda session: 3.0 if session in "ab" else 0.0, ("a", "b", "c", "d")).run(400)
    rest = life.asked[100:]
    assert all({"a", "b"} <= set(one) for one in rest)
    assert sum("c" in one for one in rest) < len(rest) / 5


def test_a_call_that_holds_up_many_must_save_much() -> None:
    alone = Life(0.004, lambda _: 0.6).run(100)
    assert all(alone.asked)
    policy = ResidentPolicy()
    for _ in range(50):
        policy.called(1, 0.004)
        policy.answered("s", 0.6)
    assert policy.choose(["s"], 1, PLAIN_S) == ["s"]
    assert policy.choose(["s"], 8, PLAIN_S) == []


def test_the_first_call_pays_for_more_than_itself_and_is_not_held_against_the_drafter() -> None:
    policy = ResidentPolicy()
    assert policy.choose(["s"], 1, PLAIN_S) == ["s"]
    policy.called(1, 9.0)
    policy.answered("s", 1.0)
    assert policy.choose(["s"], 1, PLAIN_S) == ["s"]
    policy.called(1, 0.001)
    assert policy.choose(["s"], 1, PLAIN_S) == ["s"]


def test_a_new_session_begins_with_what_the_others_found() -> None:
    policy = Life(0.002, lambda _: 0.0).run(60).policy
    assert policy.choose(["new"], 1, PLAIN_S) == []
    policy.forget("s")
    assert policy.choose(["s"], 1, PLAIN_S) == []


def cost(seconds: Callable[[int], float]) -> StepCost:
    out = StepCost()
    for rows in (1, 2, 4, 8, 16, 32, 64):
        out.observe(rows, seconds(rows))
    return out


def test_where_a_row_costs_more_than_a_sure_token_brings_nobody_is_asked() -> None:
    bound_by_memory = cost(lambda rows: 0.010 + 0.0001 * rows)
    bound_by_compute = cost(lambda rows: 0.001 * rows**1.5)
    assert can_drafts_pay(4, 100, bound_by_memory)
    assert not can_drafts_pay(4, 4, bound_by_memory)
    assert not can_drafts_pay(16, 100, bound_by_compute)
