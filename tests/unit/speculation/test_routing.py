"""A session goes to the free member with the fewest sessions, the same one on every replay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.speculation.routing import Candidate, pick

CANDIDATES = st.builds(Candidate, st.sampled_from("abcdef"), st.integers(0, 3), st.sampled_from([0.0, 4.0, 5.0]))


def test_the_member_with_the_fewest_sessions_is_picked() -> None:
    assert pick([Candidate("a", 2), Candidate("b", 1), Candidate("c", 3)], 0.0) == Candidate("b", 1)


def test_among_equals_the_first_address_is_picked_in_whatever_order_they_come() -> None:
    equals = [Candidate("b", 1), Candidate("c", 0), Candidate("a", 0)]
    assert pick(equals, 0.0) == pick(equals[::-1], 0.0) == Candidate("a", 0)


def test_a_member_that_refused_is_left_alone_until_its_time_has_come() -> None:
    refused, busy = Candidate("a", 0, not_before=5.0), Candidate("b", 9)
    assert pick([refused, busy], 4.999) == busy
    assert pick([refused, busy], 5.0) == refused


def test_where_nobody_is_free_nobody_is_picked() -> None:
    assert pick([], 0.0) is None
    assert pick([Candidate("a", 0, 5.0), Candidate("b", 0, 6.0)], 4.0) is None


@given(st.lists(CANDIDATES, unique_by=lambda one: one.address), st.sampled_from([0.0, 4.0, 4.5]), st.randoms())
def test_no_free_member_has_fewer_sessions_and_the_order_never_matters(
    candidates: list[Candidate], now: float, random: object
) -> None:
    picked = pick(candidates, now)
    free = [one for one in candidates if one.not_before <= now]
    assert (picked is None) == (not free)
    assert picked is None or picked in free
    assert all((picked.num_sessions, picked.address) <= (one.num_sessions, one.address) for one in free if picked)
    random.shuffle(candidates)  # type: ignore[attr-defined]
    assert pick(candidates, now) == picked
