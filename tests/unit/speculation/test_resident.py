"""Asking the drafter next door: as long as it pays, for as much as pays, and now and then when it did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from paceline.core.types import Profile
from paceline.speculation.draft_length import NUM_FIRST, StepCost
from paceline.speculation.resident import (
    ALLOWANCE,
    OVERDRAFT_STEPS,
    Answer,
    CallCost,
    ResidentPolicy,
    Seeker,
    can_drafts_pay,
)

PLAIN_S = 0.010
ROOM = 16


def cost(seconds: Callable[[int], float]) -> StepCost:
    out = StepCost()
    for rows in (1, 2, 4, 8, 16, 32, 64):
        out.observe(rows, seconds(rows))
    return out


FREE_ROWS = cost(lambda rows: PLAIN_S)


@dataclass
class Life:
    """Steps of sessions that all decode, with calls of a given time and answers that get so many tokens right."""

    call_s: Callable[[int, int], float]
    """By sessions and tokens asked for."""
    right: Callable[[str], int]
    sessions: tuple[str, ...] = ("s",)
    room: int = ROOM

    def __post_init__(self) -> None:
        self.policy = ResidentPolicy()
        for session in self.sessions:
            self.policy.join(session, Profile.AUTO)
        self.asked: list[dict[str, int]] = []
        self.spent_s: list[float] = []

    def run(self, steps: int) -> Life:
        for _ in range(steps):
            chosen = self.policy.choose(
                [Seeker(one, 0, self.room) for one in self.sessions], len(self.sessions), FREE_ROWS
            )
            self.asked.append(chosen)
            self.spent_s.append(self.call_s(len(chosen), max(chosen.values())) if chosen else 0.0)
            if chosen:
                self.policy.called(len(chosen), max(chosen.values()), self.spent_s[-1])
            for session, asked in chosen.items():
                right = min(self.right(session), asked)
                self.policy.answered(session, Answer(asked, asked, right, right + 1))
        return self

    def share(self, last: int) -> float:
        """Of the latest steps, those with a call."""
        return sum(map(bool, self.asked[-last:])) / last


def always(seconds: float) -> Callable[[int, int], float]:
    return lambda sessions, tokens: seconds


def test_a_drafter_that_pays_is_asked_at_every_step() -> None:
    life = Life(always(0.002), lambda _: 1).run(200)
    assert all(life.asked)


@pytest.mark.parametrize("call_s", [0.002, 0.010, 0.050, 1.0])
def test_one_that_never_helps_costs_a_small_share_of_the_time_however_slow_it_is(call_s: float) -> None:
    steps = max(1000, round(20 * call_s / PLAIN_S))
    beginning = NUM_FIRST + 1 if call_s >= PLAIN_S else 25  # once more for a single token
    life = Life(always(call_s), lambda _: 0).run(steps)
    assert sum(map(bool, life.asked[:40])) <= beginning
    assert sum(life.spent_s) <= (ALLOWANCE * steps + OVERDRAFT_STEPS) * PLAIN_S + (beginning + 1) * call_s


def test_a_useless_one_is_tried_again_and_wins_its_place_back_once_it_helps() -> None:
    life = Life(always(0.002), lambda _: 0).run(300)
    life.right = lambda _: 3
    life.run(300)
    assert life.share(100) == 1.0


@pytest.mark.parametrize("num_slow", [1, NUM_FIRST - 1])
def test_first_calls_that_are_a_hundred_times_too_slow_are_not_held_against_the_drafter(num_slow: int) -> None:
    calls: list[int] = []

    def call_s(sessions: int, tokens: int) -> float:
        calls.append(tokens)
        return 0.2 if len(calls) <= num_slow else 0.002

    assert all(Life(call_s, lambda _: 1).run(100).asked)


@pytest.mark.parametrize("num_slow", [NUM_FIRST, 10])
def test_a_drafter_held_for_a_hundred_times_too_slow_is_back_within_a_bounded_number_of_steps(num_slow: int) -> None:
    life = Life(always(0.2), lambda _: 1)
    while sum(map(bool, life.asked)) < num_slow:
        life.run(1)
    life.call_s = always(0.002)
    owed = sum(life.spent_s[NUM_FIRST:])  # tries out of the allowance, at the price that they had
    life.run(round((OVERDRAFT_STEPS * PLAIN_S + owed) / (ALLOWANCE * PLAIN_S)) + 50)
    assert life.share(20) == 1.0


def test_one_slow_call_in_between_changes_nothing() -> None:
    life = Life(always(0.002), lambda _: 1).run(50)
    life.call_s = always(1.0)
    life.run(1)
    life.call_s = always(0.002)
    life.run(50)
    assert all(life.asked)


def test_it_is_asked_for_as_many_tokens_as_pay_where_each_costs_time() -> None:
    asked = {}
    for right in (1, 2, 4, 16):
        life = Life(lambda sessions, tokens: 0.001 + 0.002 * tokens, lambda _: right).run(300)  # noqa: B023
        amounts = [one.get("s", 0) for one in life.asked[-100:]]
        asked[right] = max(set(amounts), key=amounts.count)
    assert asked == {1: 1, 2: 2, 4: 4, 16: 16}


def test_it_is_asked_for_all_that_there_is_room_for_where_only_the_call_costs() -> None:
    life = Life(always(0.004), lambda _: 4).run(300)
    assert all(one["s"] >= 4 for one in life.asked)


def test_drafts_that_are_there_already_count_for_what_they_bring() -> None:
    policy = ResidentPolicy()
    policy.join("s", Profile.AUTO)
    for _ in range(50):
        policy.called(1, 16, 0.006)
        policy.answered("s", Answer(16, 2, 2, 3))
    assert policy.choose([Seeker("s", 0, 16)], 1, FREE_ROWS) == {"s": pytest.approx(2, abs=14)}
    assert policy.choose([Seeker("s", 2, 14)], 1, FREE_ROWS) == {}


def test_only_those_sessions_are_asked_for_that_make_up_for_everybodys_wait() -> None:
    life = Life(lambda sessions, tokens: 0.006 * sessions, lambda one: 4 if one in "ab" else 0, ("a", "b", "c", "d"))
    life.run(400)
    rest = life.asked[100:]
    assert all({"a", "b"} <= set(one) for one in rest)
    assert sum("c" in one for one in rest) < len(rest) / 5


def test_a_call_that_holds_up_many_must_save_much() -> None:
    policy = Life(always(0.004), lambda _: 1).run(50).policy
    assert set(policy.choose([Seeker("s", 0, ROOM)], 1, FREE_ROWS)) == {"s"}
    assert policy.choose([Seeker("s", 0, ROOM)], 8, FREE_ROWS) == {}


def test_a_new_session_begins_with_what_the_others_of_its_profile_found() -> None:
    policy = Life(always(0.008), lambda _: 0).run(100).policy
    policy.join("new", Profile.AUTO)
    policy.join("other", Profile.CODE)
    assert policy.choose([Seeker("new", 0, ROOM)], 1, FREE_ROWS) == {}
    policy.forget("s")
    policy.join("s", Profile.AUTO)
    assert policy.choose([Seeker("s", 0, ROOM)], 1, FREE_ROWS) == {}
    assert set(policy.choose([Seeker("other", 0, ROOM)], 1, FREE_ROWS)) == {"other"}


def test_nobody_asks_where_nobody_may() -> None:
    assert ResidentPolicy().choose([], 3, FREE_ROWS) == {}


def test_what_a_call_costs_is_learned_by_tokens_and_by_sessions() -> None:
    calls = CallCost()
    for tokens in (1, 4, 16):
        calls.observe(1, tokens, 0.001 * tokens)
    assert calls.seconds(1, 4) == pytest.approx(0.004)
    assert calls.seconds(1, 10) == pytest.approx(0.010)
    assert calls.seconds(3, 4) == pytest.approx(0.008)  # two sessions more: half of a call for each
    calls.observe(3, 4, 0.005)
    assert calls.seconds(3, 4) == pytest.approx(0.005)
    assert calls.seconds(1, 4) == pytest.approx(0.004)


def test_where_a_row_costs_more_than_a_sure_token_brings_nobody_is_asked() -> None:
    bound_by_memory = cost(lambda rows: 0.010 + 0.0001 * rows)
    bound_by_compute = cost(lambda rows: 0.001 * rows**1.5)
    assert can_drafts_pay(4, 100, bound_by_memory)
    assert not can_drafts_pay(4, 4, bound_by_memory)
    assert not can_drafts_pay(16, 100, bound_by_compute)
