"""The formulas: what a round trip costs on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.core.requests import DraftMode
from paceline.lab.formulas import Hardware, token_s

ON = Hardware()
DRAFTED = [DraftMode.COLOCATED, DraftMode.SYNC, DraftMode.PIPELINE, DraftMode.LOOKAHEAD]


def test_plain_decoding_takes_a_step_per_token() -> None:
    assert token_s(ON, DraftMode.PLAIN, 9.0) == 0.030


def test_a_drafter_next_door_is_as_good_as_one_in_the_verifier_that_waits_for_each_block() -> None:
    assert token_s(ON, DraftMode.SYNC, 0.0) == token_s(ON, DraftMode.COLOCATED, 0.0) == pytest.approx(0.0112, abs=1e-4)


@pytest.mark.parametrize("mode", DRAFTED)
def test_no_mode_is_slower_than_plain_decoding(mode: DraftMode) -> None:
    assert token_s(replace(ON, acceptance=0.01), mode, 1.0) <= 0.030


@pytest.mark.parametrize("mode", DRAFTED[1:])
def test_a_longer_way_never_helps(mode: DraftMode) -> None:
    times = [token_s(ON, mode, rtt / 1000) for rtt in range(0, 100, 5)]
    assert times == sorted(times)


def test_looking_ahead_hides_the_way_as_long_as_it_fits_into_a_step() -> None:
    sure = replace(ON, hit=1.0, token_s=0.0, branch_s=0.0)
    assert token_s(sure, DraftMode.LOOKAHEAD, 0.015) == token_s(sure, DraftMode.LOOKAHEAD, 0.0)
    assert token_s(sure, DraftMode.PIPELINE, 0.015) > token_s(sure, DraftMode.PIPELINE, 0.0)
