"""Measuring what steps and calls cost: on a synthetic machine, whose costs are known, in virtual time."""

from __future__ import annotations

import pytest

from paceline.cli.profiling import (
    Shape,
    StepLine,
    Timing,
    fit_calls,
    fit_steps,
    measure_calls,
    measure_steps,
    worst_error,
)
from paceline.config.settings import SyntheticSettings, VerifierSettings
from paceline.drafters.random import RandomDrafter
from paceline.testing.clock import LoopClock
from paceline.verifiers.synthetic import SyntheticVerifier

SHAPES = [Shape(1, 64), Shape(8, 64), Shape(1, 300), Shape(16, 300), Shape(1, 64, sessions=3)]


@pytest.mark.looptime
async def test_the_costs_of_a_machine_are_found_again() -> None:
    synthetic = SyntheticSettings(vocab_size=64, step_base_s=0.02, step_row_s=0.0005, step_kv_s=2e-7)
    backend = SyntheticVerifier(VerifierSettings(synthetic=synthetic), LoopClock())
    told: list[int] = []
    timings = await measure_steps(backend, LoopClock(), SHAPES, 3, told.append)
    assert [len(timing.seconds) for timing in timings] == [3] * len(SHAPES)
    assert sum(told) == 4 * len(SHAPES)
    line = fit_steps(timings)
    assert line.base_s == pytest.approx(0.02, rel=1e-3)  # the virtual clock ticks in microseconds
    assert line.row_s == pytest.approx(0.0005, rel=1e-3)
    assert line.kv_s == pytest.approx(2e-7, rel=1e-2)
    assert worst_error(line, timings) < 1e-4


def test_no_part_of_a_line_is_negative() -> None:
    timings = [Timing(Shape(1, 10), [1.0]), Timing(Shape(2, 10), [0.9]), Timing(Shape(4, 10), [1.1])]
    line = fit_steps(timings)
    assert min(line.base_s, line.row_s, line.kv_s) >= 0.0
    assert worst_error(line, timings) < 0.2


def test_a_line_tells_the_time_of_any_step() -> None:
    assert StepLine(1.0, 0.1, 0.01).seconds(Shape(2, 5, sessions=3)) == pytest.approx(1.0 + 0.6 + 0.3)


def test_calls_have_a_price_and_their_tokens_too() -> None:
    line = fit_calls({1: [0.003, 0.003, 9.0], 2: [0.004] * 3, 4: [0.006] * 3})
    assert line.base_s == pytest.approx(0.002)
    assert line.token_s == pytest.approx(0.001)


class _Ticks:
    """Every look at the clock is a second later."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def time_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        """Not needed."""


def test_a_drafter_is_asked_for_every_length_in_turns() -> None:
    calls = measure_calls(RandomDrafter(64, 4), _Ticks(), (1, 4), 5)
    assert calls == {1: [1.0] * 5, 4: [1.0] * 5}
