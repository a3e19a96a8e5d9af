"""Waiting for a draft, only where it pays: p (L - 1) t_1 > R + p (t_v - t_1)."""

from __future__ import annotations

from paceline.speculation.waiting import DraftArrivals, wait_until

PLAIN_S, VERIFY_S = 0.020, 0.022


def arrivals(delay_s: float, *, useful: bool = True, tokens: int = 4, count: int = 60) -> DraftArrivals:
    one = DraftArrivals()
    for i in range(count):
        one.committed(float(i))
        one.came(i + delay_s, useful)
        one.verified(tokens)
    one.committed(100.0)
    return one


def test_nothing_is_waited_for_before_anything_is_known() -> None:
    one = DraftArrivals()
    one.committed(0.0)
    assert one.expect(PLAIN_S, VERIFY_S) is None


def test_a_quick_and_useful_drafter_is_waited_for() -> None:
    prospect = arrivals(0.002).expect(PLAIN_S, VERIFY_S)
    until = wait_until([prospect], 100.0)
    assert until is not None
    assert 100.002 <= until <= 100.01


def test_a_slow_drafter_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.2).expect(PLAIN_S, VERIFY_S)], 100.0) is None


def test_a_drafter_without_ideas_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.002, useful=False).expect(PLAIN_S, VERIFY_S)], 100.0) is None


def test_a_drafter_that_is_always_wrong_is_not_waited_for() -> None:
    assert wait_until([arrivals(0.002, tokens=1).expect(PLAIN_S, VERIFY_S)], 100.0) is None


def test_the_wait_for_one_session_must_pay_for_all() -> None:
    prospect = arrivals(0.010).expect(PLAIN_S, VERIFY_S)
    assert wait_until([prospect], 100.0) is not None
    assert wait_until([prospect, *[None] * 9], 100.0) is None


def test_waits_that_were_in_vain_become_rare() -> None:
    one = arrivals(0.002)
    for i in range(40):
        one.committed(200.0 + i)
        one.missed()
    one.committed(300.0)
    assert wait_until([one.expect(PLAIN_S, VERIFY_S)], 300.0) is None


def test_a_wait_in_vain_says_nothing_of_sessions_whose_draft_had_come() -> None:
    one, other = arrivals(0.002), arrivals(0.002)
    for each in (one, other):
        each.came(100.002, True)
    for _ in range(40):
        one.missed()
    for each in (one, other):
        each.committed(200.0)
    assert one.expect(PLAIN_S, VERIFY_S) == other.expect(PLAIN_S, VERIFY_S)


def test_only_the_first_answer_for_a_position_counts() -> None:
    one, other = arrivals(0.002), arrivals(0.002)
    one.came(100.002, True)
    one.came(150.0, False)
    other.came(100.002, True)
    for each in (one, other):
        each.committed(200.0)
    assert one.expect(PLAIN_S, VERIFY_S) == other.expect(PLAIN_S, VERIFY_S)


def test_where_the_draft_is_here_already_nothing_is_waited_for() -> None:
    one = arrivals(0.002)
    assert one.is_pending
    one.settled()
    assert not one.is_pending
    assert one.expect(PLAIN_S, VERIFY_S) is None


def test_no_wait_begins_after_its_end() -> None:
    prospect = arrivals(0.002).expect(PLAIN_S, VERIFY_S)
    assert wait_until([prospect], 101.0) is None
