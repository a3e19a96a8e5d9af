"""Drafts never cost, whatever is wrong with the drafters: the real services in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.core.requests import DraftMode
from paceline.lab.floor import Load, crowds, grid, serve
from paceline.lab.formulas import Hardware

ON = Hardware()


@pytest.mark.parametrize(
    "trouble",
    [
        Load(ON, DraftMode.SYNC, dies=True, num_tokens=400),
        Load(ON, DraftMode.PIPELINE, dies=True, num_tokens=400),
        Load(ON, DraftMode.LOOKAHEAD, rtt_s=1.0, num_tokens=100),
    ],
    ids=["dies, sync", "dies, pipeline", "a second away"],
)
def test_a_drafter_that_brings_nothing_costs_nothing(trouble: Load) -> None:
    plain, served = serve(Load(ON, DraftMode.PLAIN, num_tokens=100)), serve(trouble)
    assert served.p50_s <= 1.05 * plain.p50_s
    assert served.p99_s <= 1.10 * plain.p99_s


@pytest.mark.parametrize("mode", [DraftMode.SYNC, DraftMode.PIPELINE])
def test_the_few_steps_in_which_garbage_is_found_out_are_less_than_one_in_a_hundred(mode: DraftMode) -> None:
    plain = serve(Load(ON, DraftMode.PLAIN, num_tokens=512))
    garbage = serve(Load(replace(ON, acceptance=0.0, hit=0.0), mode, num_tokens=512, boasts=True))
    assert garbage.p99_s <= 1.10 * plain.p99_s


def test_a_crowd_is_served_no_slower_than_without_drafts() -> None:
    assert min(one.ratio for one in crowds(ON, (1, 16), 40)) >= 1.0


def test_a_cell_of_the_grid_names_the_best_fixed_block_and_how_near_the_controller_comes() -> None:
    (cell,) = grid(ON, [(0.8, 0.0, 1, 0.01)], 120)
    assert cell.best_block in (4, 8, 16)
    assert cell.ratio >= 0.95
