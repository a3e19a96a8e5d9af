"""The nouns never change in the hands of those they are lent to."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, is_dataclass

import pytest

from paceline.core import ports, requests, types
from paceline.core.types import SamplingParams, SessionSpec, StepItem, StopRules

NOUNS = sorted(
    {
        one
        for module in (types, requests, ports)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if is_dataclass(one)
    },
    key=lambda one: one.__name__,
)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_is_frozen_and_takes_no_new_attributes(noun: type) -> None:
    assert noun.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(noun)


def test_a_noun_can_not_be_changed() -> None:
    spec = SessionSpec("s", (1,), 1, SamplingParams(), StopRules(1))
    with pytest.raises(FrozenInstanceError):
        spec.context = (2,)  # type: ignore[misc]


def test_equal_requests_are_equal_and_can_be_keys() -> None:
    assert len({SessionSpec("s", (1, 2), 1, SamplingParams(seed=3), StopRules(1)) for _ in range(2)}) == 1
    assert SamplingParams(seed=3) != SamplingParams(seed=4)


def test_the_rows_of_a_step_are_committed_tokens_and_then_drafts() -> None:
    assert StepItem("s", 5, (7, 8, 9), num_draft=2).num_committed == 1
    assert StepItem("s", 5, (7, 8, 9), sample=False).num_committed == 3
