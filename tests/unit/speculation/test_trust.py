"""Trust follows what sources have been worth, and notices when that changes. Seeds are fixed, sizes stated."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import DraftJob, Guess
from paceline.speculation import trust
from paceline.speculation.merging import Merger, Opinion
from paceline.speculation.trust import LEAST, MOST, Claim, SessionTrust, SharedTrust

ALONE = Claim(supporters=1, opponents=0, depth=0, confidence=0.6)
CLAIMS = st.builds(Claim, st.integers(1, 7), st.integers(0, 7), st.integers(0, 64), st.floats(0.0, 1.0))


def test_before_anything_was_judged_a_source_is_taken_at_its_word() -> None:
    session = SessionTrust(SharedTrust())
    assert [session.chance(Claim(1, 0, 0, confidence)) for confidence in (0.1, 0.5, 0.9)] == [0.1, 0.5, 0.9]


@given(st.lists(st.tuples(CLAIMS, st.booleans()), max_size=60), CLAIMS)
def test_chances_are_never_certain_whatever_is_claimed_and_seen(judged: list[tuple[Claim, bool]], asked: Claim) -> None:
    session = SessionTrust(SharedTrust())
    for claim, is_right in judged:
        session.learn(claim, is_right)
    assert LEAST <= session.chance(asked) <= MOST


@given(st.lists(st.tuples(CLAIMS, st.booleans()), max_size=40), CLAIMS)
def test_a_claim_that_was_right_is_trusted_no_less_than_one_that_was_wrong(
    judged: list[tuple[Claim, bool]], last: Claim
) -> None:
    chances = []
    for is_right in (False, True):
        session = SessionTrust(SharedTrust())
        for claim, was_right in judged:
            session.learn(claim, was_right)
        session.learn(last, is_right)
        chances.append(session.chance(last))
    assert chances[0] <= chances[1]


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_all_sessions_together_learn_the_rate_whatever_the_source_says(rate: float) -> None:
    """4,000 claims remembered like some 500: a standard error of 0.016 at most, 4 of them allowed."""
    shared, chance = SharedTrust(), random.Random(1)
    for _ in range(4_000):
        shared.learn(ALONE, chance.random() < rate)
    assert shared.chance(ALONE) == pytest.approx(rate, abs=0.064)


def test_what_sessions_have_learned_helps_the_next_one() -> None:
    shared = SharedTrust()
    for _ in range(100):
        SessionTrust(shared).learn(ALONE, False)
    assert SessionTrust(shared).chance(ALONE) < 0.1


def test_kinds_of_claims_are_told_apart() -> None:
    session = SessionTrust(SharedTrust())
    opposed = Claim(1, 2, 0, 0.6)
    supported = Claim(3, 0, 0, 0.6)
    for _ in range(60):
        session.learn(opposed, False)
        session.learn(supported, True)
    assert session.chance(opposed) < 0.2 < 0.9 < session.chance(supported)


def test_a_session_that_differs_from_the_others_is_believed_within_ten_tokens() -> None:
    shared = SharedTrust()
    for index in range(1_000):
        shared.learn(ALONE, index % 10 < 3)
    session = SessionTrust(shared)
    assert session.chance(ALONE) == pytest.approx(0.3, abs=0.05)
    for _ in range(10):
        session.learn(ALONE, True)
    assert session.chance(ALONE) > 0.7
    assert SessionTrust(shared).chance(ALONE) == pytest.approx(0.3, abs=0.05)


def test_memory_is_bounded_and_what_was_unused_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MAX_CELLS", 2)
    shared = SharedTrust()
    first, second, third = (Claim(source, 0, 0, 0.6) for source in (1, 2, 4))
    for claim in (first, second, first, third):
        for _ in range(20):
            shared.learn(claim, True)
    assert [shared.chance(claim) > 0.6 for claim in (first, second, third)] == [True, False, True]


def wrong(token: int, source: int) -> int:
    """A token that is not ``token``, and another one for every source."""
    return token + 1_000 * (source + 1)


class Stream:
    """A text, and two sources that guess its next token right with a chance that depends on the position."""

    def __init__(self, rates: Callable[[int], tuple[float, float]], seed: int, shared: SharedTrust) -> None:
        self._rates, self._random = rates, random.Random(seed)
        self._merger = Merger(SessionTrust(shared), 1)
        self._context = [0]

    def step(self) -> int | None:
        """One token further; the source that was followed, or None where both said the same."""
        token = self._random.randrange(1_000)
        rates = self._rates(len(self._context))
        guessed = [token if self._random.random() < rate else wrong(token, source) for source, rate in enumerate(rates)]
        job = DraftJob("s", tuple(self._context), len(self._context), 1)
        self._merger.advance(job)
        merged = self._merger.merge(
            job, [Opinion(source, Guess("s", (one,), (0.6,))) for source, one in enumerate(guessed)]
        )
        self._context.append(token)
        return None if guessed[0] == guessed[1] else guessed.index(merged.token_ids[0])


def followed(stream: Stream, num_tokens: int) -> list[int]:
    """Which source was followed wherever they differed."""
    return [source for _ in range(num_tokens) if (source := stream.step()) is not None]


@pytest.mark.parametrize("better", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_the_better_of_two_sources_is_found_within_forty_tokens(better: int, seed: int) -> None:
    """Rates .75 and .35, both claim .6. The next 200 tokens differ some 130 times; nine in ten must be decided well."""
    rates = (0.75, 0.35) if better == 0 else (0.35, 0.75)
    stream = Stream(lambda _: rates, seed, SharedTrust())
    followed(stream, 40)
    choices = followed(stream, 200)
    assert choices.count(better) >= 0.9 * len(choices)


@pytest.mark.parametrize("seed", range(5))
def test_it_changes_sides_within_forty_tokens_when_the_text_changes_its_nature(seed: int) -> None:
    """300 tokens of one kind (.8 and .3), then the other way round, however much the past has taught."""
    stream = Stream(lambda position: (0.8, 0.3) if position <= 300 else (0.3, 0.8), seed, SharedTrust())
    before = followed(stream, 300)
    followed(stream, 40)
    after = followed(stream, 200)
    assert before[30:].count(0) >= 0.9 * len(before[30:])
    assert after.count(1) >= 0.85 * len(after)


@pytest.mark.parametrize("seed", range(3))
def test_a_new_session_knows_from_others_whom_to_follow(seed: int) -> None:
    shared = SharedTrust()
    followed(Stream(lambda _: (0.3, 0.8), seed, shared), 300)
    choices = followed(Stream(lambda _: (0.3, 0.8), seed + 100, shared), 12)
    assert choices.count(1) >= len(choices) - 1
