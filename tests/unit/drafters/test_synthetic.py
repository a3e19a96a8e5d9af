"""The synthetic drafter's second choices and call times: as often right, and as long, as the settings say."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from paceline.config.settings import SyntheticSettings
from paceline.core.types import DraftJob, Guess, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters.ngram import NgramDrafter
from paceline.drafters.pacing import PacedWorker, paced_worker
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.models.hash_model import HashModel
from paceline.testing.clock import LoopClock

SETTINGS = SyntheticSettings(vocab_size=1000, agreement=0.6, alternatives=3, hit=0.7)
SPEC = SessionSpec("s", (1, 2, 3), 3, SamplingParams(), StopRules(5000), fan_out=3)


def drafter(settings: SyntheticSettings = SETTINGS, spec: SessionSpec = SPEC) -> SyntheticDrafter:
    one = SyntheticDrafter(4, settings)
    one.open(spec)
    return one


def guess(context: Tokens, count: int = 1, *, by: SyntheticDrafter | None = None) -> Guess:
    return (by or drafter()).extend([DraftJob("s", context, len(context), count)])[0]


def test_it_names_as_many_alternatives_per_place_as_a_session_wants() -> None:
    found = guess((5, 6), 4)
    assert [branch.position for branch in found.branches] == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert all(branch.parent == 0 and len(branch.token_ids) == 1 for branch in found.branches)
    assert len(guess((5, 6), 4, by=drafter(spec=replace(SPEC, fan_out=1))).branches) == 4
    assert guess((5, 6), 4, by=drafter(replace(SETTINGS, alternatives=0))).branches == ()


def test_alternatives_differ_from_the_first_choice_and_from_each_other() -> None:
    for start in range(100):
        found = guess((start, 7))
        named = [branch.token_ids[0] for branch in found.branches]
        assert len({*named, *found.token_ids}) == 4


def test_the_targets_token_is_among_them_as_often_as_the_settings_say() -> None:
    model, one = HashModel(1000), drafter()
    wrong, ranks = 0, [0, 0, 0]
    for start in range(2000):
        context = (start % 1000, start // 1000)
        found, token = guess(context, by=one), model.peaks(context)[0]
        named = [branch.token_ids[0] for branch in found.branches]
        if found.token_ids[0] != token:
            wrong += 1
            if token in named:
                ranks[named.index(token)] += 1
        else:
            assert token not in named
    assert wrong == pytest.approx(800, abs=100)
    assert sum(ranks) / wrong == pytest.approx(0.7, abs=0.06)
    assert [count / sum(ranks) for count in ranks] == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.07)


def test_confidences_say_how_likely_each_is() -> None:
    found = guess((5, 6))
    assert found.confidences == (0.6,)
    assert [branch.confidences[0] for branch in found.branches] == pytest.approx([0.28 * n / 7 for n in (4, 2, 1)])


def test_a_call_takes_its_base_the_longest_guess_and_a_little_for_every_other_one() -> None:
    one = drafter(replace(SETTINGS, call_base_s=0.5, call_token_s=0.1, call_row_s=0.01))
    one.extend([DraftJob("s", (1, 2), 2, count) for count in (2, 5, 1)])
    assert one.take_owed_s() == pytest.approx(0.5 + 5 * 0.1 + 3 * 0.01)
    assert one.take_owed_s() == 0.0


@pytest.mark.looptime
async def test_the_time_of_a_call_goes_by_on_the_clock_before_its_result_is_there() -> None:
    one = drafter(replace(SETTINGS, call_token_s=0.25))
    worker = paced_worker(one, LoopClock())
    assert worker is not None
    loop = asyncio.get_running_loop()
    began = loop.time()
    guesses = await asyncio.wrap_future(worker.submit(one.extend, [DraftJob("s", (1, 2), 2, 4)]))
    assert loop.time() - began == 1.0
    assert guesses == [guess((1, 2), 4)]
    assert await asyncio.wrap_future(worker.submit(one.state_bytes)) == 0
    assert loop.time() - began == 1.0


@pytest.mark.looptime
async def test_what_a_call_raises_is_raised_at_once() -> None:
    worker = PacedWorker(drafter(), LoopClock())
    with pytest.raises(KeyError):
        await asyncio.wrap_future(worker.submit(drafter().extend, [DraftJob("nobody", (1,), 1, 1)]))


@pytest.mark.looptime
async def test_a_worker_that_ends_lets_go_of_what_is_not_due() -> None:
    one = drafter(replace(SETTINGS, call_token_s=9.0))
    worker = PacedWorker(one, LoopClock())
    pending = worker.submit(one.extend, [DraftJob("s", (1,), 1, 1)])
    worker.shutdown()
    await asyncio.sleep(20.0)
    assert not pending.done()


def test_a_drafter_that_computes_in_real_time_needs_no_such_worker() -> None:
    assert paced_worker(NgramDrafter(4), LoopClock()) is None
    assert paced_worker(None, LoopClock()) is None
