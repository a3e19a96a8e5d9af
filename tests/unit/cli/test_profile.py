"""``paceline profile``: what it writes can be played by the stack of another machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.cli.profile import Profile, as_yaml
from paceline.cli.profiling import CallLine, Shape, StepLine, Timing
from paceline.cli.up import settings_by_role
from paceline.config.load import load
from paceline.config.settings import DrafterSettings, SyntheticSettings, VerifierSettings

FOUND = Profile(
    "some-model",
    "mix:mtp,suffix",
    [Timing(Shape(1, 128), [0.02]), Timing(Shape(8, 128), [0.024])],
    StepLine(0.0194, 0.0006, 1e-8),
    {1: [0.002], 4: [0.005]},
    CallLine(0.001, 0.001),
)


def test_a_profile_is_a_file_of_settings_that_a_stack_can_be_started_with(tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text(as_yaml(FOUND), "utf-8")
    by_role = settings_by_role(file, [])
    pairs = {role: [tuple(line.split("=", 1)) for line in lines] for role, lines in by_role.items()}
    verifier = load(VerifierSettings, overrides=pairs["verifier"])  # type: ignore[arg-type]
    assert verifier.backend == "synthetic"
    assert verifier.synthetic == SyntheticSettings(step_base_s=0.0194, step_row_s=0.0006, step_kv_s=1e-8)
    drafter = load(DrafterSettings, overrides=pairs["drafter"])  # type: ignore[arg-type]
    assert drafter.drafter == "synthetic"
    assert (drafter.synthetic.call_base_s, drafter.synthetic.call_token_s) == (0.001, 0.001)


PLAYED = sorted(Path("deploy/profiles").glob("*.yaml"))


def test_there_are_machines_to_play() -> None:
    assert len(PLAYED) >= 3


@pytest.mark.parametrize("file", PLAYED, ids=[file.stem for file in PLAYED])
def test_every_machine_that_comes_along_can_be_played(file: Path) -> None:
    pairs = {role: [tuple(line.split("=", 1)) for line in lines] for role, lines in settings_by_role(file, []).items()}
    verifier = load(VerifierSettings, overrides=pairs["verifier"])  # type: ignore[arg-type]
    drafter = load(DrafterSettings, overrides=pairs["drafter"])  # type: ignore[arg-type]
    assert (verifier.backend, drafter.drafter) == ("synthetic", "synthetic")
    assert verifier.synthetic.step_base_s > drafter.synthetic.call_token_s > 0.0
    assert file.name in (file.parent / "README.md").read_text("utf-8")


def test_it_says_above_how_it_was_measured() -> None:
    head = [line for line in as_yaml(FOUND).splitlines() if line.startswith("#")]
    assert head[0].startswith("# paceline")
    assert "some-model, mix:mtp,suffix; " in head[1]
    assert " cores, 20" in head[1]
    assert "% off what was measured" in head[2]


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--rows", "0", "numbers from 1 on"),
        ("--context", "", "numbers from 1 on"),
        ("--sessions", "x", "sessions: 'x'"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_a_model_is_loaded(option: str, value: str, complaint: str) -> None:
    result = CliRunner().invoke(app, ["profile", option, value])
    assert result.exit_code != 0
    assert complaint in result.output + str(result.exception)
