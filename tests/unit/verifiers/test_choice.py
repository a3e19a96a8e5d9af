"""Back ends by name, and the times of the synthetic one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.config.settings import SyntheticSettings, VerifierSettings
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import SamplingParams, SessionSpec, StepItem, StopRules
from paceline.verifiers import create_backend

SETTINGS = VerifierSettings(backend="synthetic", synthetic=SyntheticSettings(step_base_s=0.5, step_row_s=0.25))


class Stopwatch:
    """A clock on which only sleeping takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_an_unknown_back_end_is_refused_with_the_choice() -> None:
    with pytest.raises(InvalidRequest, match="choose one of synthetic, torch"):
        create_backend(replace(SETTINGS, backend="abacus"), Stopwatch())


def test_a_missing_model_is_said() -> None:
    with pytest.raises(NotFound, match=r"nowhere\.gguf"):
        create_backend(replace(SETTINGS, backend="torch", model="nowhere.gguf"), Stopwatch())


async def test_a_synthetic_step_takes_as_long_as_its_rows_say() -> None:
    clock = Stopwatch()
    backend = create_backend(SETTINGS, clock)
    for session in ("a", "b"):
        backend.open(SessionSpec(session, (1, 2, 3), 3, SamplingParams(), StopRules(9)))
    result = await backend.step([StepItem("a", 0, (1, 2, 3)), StepItem("b", 0, (1,), sample=False)])
    assert clock.now == result.forward_s == 0.5 + 4 * 0.25


async def test_synthetic_models_with_the_same_seed_are_the_same_model() -> None:
    one, same = (create_backend(SETTINGS, Stopwatch()).info for _ in range(2))
    other = create_backend(replace(SETTINGS, synthetic=SyntheticSettings(model_seed=1)), Stopwatch()).info
    assert (one.model_digest, one.numerics_id) == (same.model_digest, same.numerics_id)
    assert one.model_digest != other.model_digest
    assert one.numerics_id != other.numerics_id
