"""What a round trip to the drafters costs in virtual time, where every number comes out the same each time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.core.requests import DraftMode
from paceline.lab.formulas import Hardware
from paceline.lab.links import Plan, curves, measure

ON = Hardware()
PLAN = Plan(ON, (0.0, 0.3), num_tokens=300)


def token_s(mode: DraftMode, rtt: float, on: Hardware = ON) -> float:
    return measure(replace(PLAN, hardware=on), mode, rtt).token_s


def test_looking_ahead_hides_a_round_trip_of_a_third_of_a_step_where_all_else_pays_it() -> None:
    near, far = token_s(DraftMode.LOOKAHEAD, 0.0), token_s(DraftMode.LOOKAHEAD, 0.3)
    assert far <= 1.10 * near
    assert far < token_s(DraftMode.PIPELINE, 0.3) < token_s(DraftMode.SYNC, 0.3)


def test_half_a_step_away_drafters_that_look_ahead_still_beat_one_in_the_verifier() -> None:
    assert token_s(DraftMode.LOOKAHEAD, 0.5) < token_s(DraftMode.COLOCATED, 0.0)


@pytest.mark.parametrize("mode", [DraftMode.SYNC, DraftMode.PIPELINE, DraftMode.LOOKAHEAD])
@pytest.mark.parametrize(("acceptance", "rtt"), [(0.0, 0.3), (0.8, 34.0)], ids=["garbage", "a second away"])
def test_drafters_that_are_of_no_use_cost_next_to_nothing(mode: DraftMode, acceptance: float, rtt: float) -> None:
    useless = replace(ON, acceptance=acceptance, hit=0.85 if acceptance else 0.0)
    assert token_s(mode, rtt, useless) <= 1.05 * ON.plain_s


@pytest.mark.parametrize(("mode", "most"), [(DraftMode.SYNC, 40), (DraftMode.PIPELINE, 64), (DraftMode.LOOKAHEAD, 280)])
def test_a_token_takes_few_bytes_on_every_way(mode: DraftMode, most: int) -> None:
    traffic = measure(PLAN, mode, 0.3).traffic
    assert max(traffic.from_drafter, traffic.to_verifier) <= most
    assert max(traffic.from_verifier, traffic.to_drafter) <= 16


def test_fewer_outcomes_gone_on_from_take_fewer_bytes() -> None:
    few = measure(replace(PLAN, least_reach=0.02), DraftMode.LOOKAHEAD, 0.3)
    assert few.traffic.from_drafter < measure(PLAN, DraftMode.LOOKAHEAD, 0.3).traffic.from_drafter / 2


def test_one_seed_is_one_history() -> None:
    plan = replace(PLAN, num_tokens=90, modes=(DraftMode.LOOKAHEAD,))
    assert curves(plan) == curves(plan)


def test_the_command_prints_a_row_per_round_trip_and_a_column_per_mode() -> None:
    done = CliRunner().invoke(app, ["bench", "links", "--rtts", "0,0.5", "--tokens", "60"])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert lines[0] == "| RTT / step | plain | colocated | sync | pipeline | lookahead |"
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["0", "0.5"]
    assert [line.split("|")[1].strip() for line in lines[6:]] == ["plain", "colocated", "sync", "pipeline", "lookahead"]


def test_a_round_trip_that_is_no_number_is_refused() -> None:
    done = CliRunner().invoke(app, ["bench", "links", "--rtts", "near"])
    assert done.exit_code == 2
    assert "no list of numbers" in " ".join(done.output.split())
