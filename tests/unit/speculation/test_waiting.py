"""Waiting for a draft, only where it pays: p s t_1 > R, with s the plain steps that a draft saves."""

from __future__ import annotations

import pytest

from paceline.speculation.waiting import FASTER, PATIENCE, RATE, SLOWER, DraftArrivals, Prospect, wait_until

PLAIN_S, VERIFY_S = 0.020, 0.022
PRICE = (VERIFY_S - PLAIN_S) / PLAIN_S


def arrivals(delay_s: float, *, useful: bool = True, tokens: int = 4, count: int = 60) -> DraftArrivals:
    one = DraftArrivals()
    for i in range(count):
        one.committed(float(i))
        one.came(i + delay_s, useful)
        one.verified(tokens - 1 - PRICE)
    one.committed(100.0)
    return one


def test_nothing_is_waited_for_before_anything_is_known() -> None:
    one = DraftArrivals()
    one.committed(0.0)
    assert one.expect(PLAIN_S) is None


def test_a_quick_and_useful_drafter_is_waited_for() -> None:
    prospect = arrivals(0.002).expect(PLAIN_S)
    until = wait_until([prospect], 100.0)
    assert until is not None
    assert 100.002 <= until <= 100.01


def test_a_slow_drafter_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.2).expect(PLAIN_S)], 100.0) is None


def test_a_drafter_without_ideas_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.002, useful=False).expect(PLAIN_S)], 100.0) is None


def test_a_drafter_that_is_always_wrong_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.002, tokens=1).expect(PLAIN_S)], 100.0) is None


def test_the_wait_for_one_session_must_pay_for_all() -> None:
    prospect = arrivals(0.010).expect(PLAIN_S)
    assert wait_until([prospect], 100.0) is not None
    assert wait_until([prospect, *[None] * 9], 100.0) is None


def test_waits_that_were_in_vain_become_rare() -> None:
    one = arrivals(0.002)
    for i in range(40):
        one.committed(200.0 + i)
        one.missed()
    one.committed(300.0)
    assert wait_until([one.expect(PLAIN_S)], 300.0) is None


def test_a_wait_is_worth_the_tokens_it_brings_less_the_time_it_takes() -> None:
    one = DraftArrivals()
    one.committed(10.0)
    one.came(10.004, True)
    one.verified(5 - 1 - PRICE)
    one.committed(20.0)
    chance, saved = 0.5 + RATE * 0.5, 1.0 + (3.0 - PRICE) / 1.5
    prospect = one.expect(PLAIN_S)
    assert prospect is not None
    assert prospect.gain_s == pytest.approx(chance * saved * PLAIN_S)
    assert prospect.delay_s == pytest.approx(0.004)
    assert prospect.until == pytest.approx(20.0 + PATIENCE * 0.004)


@pytest.mark.parametrize(("delay_s", "rate"), [(0.006, SLOWER), (0.001, FASTER)])
def test_shorter_delays_are_believed_sooner_than_longer_ones(delay_s: float, rate: float) -> None:
    """A draft that comes while a step computes is late because of the step."""
    one = arrivals(0.002)
    one.came(100.0 + delay_s, True)
    one.committed(200.0)
    prospect = one.expect(PLAIN_S)
    assert prospect is not None
    assert prospect.delay_s == pytest.approx(0.002 + rate * (delay_s - 0.002))


def test_delays_that_stay_long_are_believed_in_the_end() -> None:
    one = arrivals(0.002)
    for i in range(200):
        one.committed(200.0 + i)
        one.came(200.006 + i, True)
    one.committed(500.0)
    prospect = one.expect(PLAIN_S)
    assert prospect is not None
    assert prospect.delay_s == pytest.approx(0.006, rel=0.01)


def test_drafts_that_are_never_worth_checking_are_not_waited_for() -> None:
    one = arrivals(0.002)
    for _ in range(60):
        one.verified(0.0)
    assert wait_until([one.expect(PLAIN_S)], 100.0) is None


def test_a_wait_in_vain_makes_drafts_less_likely_and_slower() -> None:
    one = arrivals(0.002)
    before = one.expect(PLAIN_S)
    one.missed()
    one.committed(200.0)
    after = one.expect(PLAIN_S)
    assert before is not None
    assert after is not None
    assert after.gain_s == pytest.approx(before.gain_s / 2)
    assert after.delay_s == pytest.approx((1 + RATE) * before.delay_s)


def test_waits_in_vain_in_a_row_count_ever_more_and_a_word_in_between_ends_the_row() -> None:
    one, other = arrivals(0.002), arrivals(0.002)
    gains = []
    for index in range(4):
        prospect = one.expect(PLAIN_S)
        assert prospect is not None
        gains.append(prospect.gain_s)
        one.missed()
        one.committed(200.0 + index)
    assert gains == pytest.approx([gains[0], gains[0] / 2, gains[0] / 8, gains[0] / 64])
    other.missed()
    other.came(100.002, True)
    other.committed(200.0)
    before = other.expect(PLAIN_S)
    other.missed()
    other.committed(300.0)
    after = other.expect(PLAIN_S)
    assert before is not None
    assert after is not None
    assert after.gain_s == pytest.approx(before.gain_s / 2)


def test_a_few_steps_whose_drafts_were_wrong_end_the_waiting() -> None:
    one = DraftArrivals()
    one.committed(100.0)
    one.came(100.002, True)
    for _ in range(5):
        one.verified(-PRICE)
    one.committed(200.0)
    assert wait_until([one.expect(PLAIN_S)], 200.0) is None


def test_a_wait_lasts_until_the_last_of_those_it_is_for() -> None:
    prospects = [Prospect(1.0, 0.001, 100.2), None, Prospect(1.0, 0.001, 100.7), Prospect(9.0, 0.001, 100.0)]
    assert wait_until(prospects, 100.0) == 100.7
    assert wait_until(prospects[-1:], 100.0) is None


def test_a_wait_in_vain_says_nothing_of_sessions_whose_draft_had_come() -> None:
    one, other = arrivals(0.002), arrivals(0.002)
    for each in (one, other):
        each.came(100.002, True)
    for _ in range(40):
        one.missed()
    for each in (one, other):
        each.committed(200.0)
    assert one.expect(PLAIN_S) == other.expect(PLAIN_S)


def test_only_the_first_answer_for_a_position_counts() -> None:
    one, other = arrivals(0.002), arrivals(0.002)
    one.came(100.002, True)
    one.came(150.0, False)
    other.came(100.002, True)
    for each in (one, other):
        each.committed(200.0)
    assert one.expect(PLAIN_S) == other.expect(PLAIN_S)


def test_where_the_draft_is_here_already_nothing_is_waited_for() -> None:
    one = arrivals(0.002)
    assert one.is_pending
    one.settled()
    assert not one.is_pending
    assert one.expect(PLAIN_S) is None


def test_no_wait_begins_after_its_end() -> None:
    prospect = arrivals(0.002).expect(PLAIN_S)
    assert wait_until([prospect], 101.0) is None
