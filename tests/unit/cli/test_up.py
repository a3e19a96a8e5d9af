"""``paceline up``: settings by role, from a file and from flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli.stack import StackOptions, choose, running_stack
from paceline.cli.up import settings_by_role
from paceline.core.errors import InvalidRequest, NotFound


def test_flags_come_after_the_file_so_that_they_win(tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("verifier:\n  max_sessions: 4\n  synthetic: {vocab_size: 99}\n", "utf-8")
    chosen = settings_by_role(file, ["verifier.max_sessions=8", "coordinator.max_draft=3"])
    assert chosen["verifier"] == ("max_sessions=4", "synthetic.vocab_size=99", "max_sessions=8")
    assert chosen["coordinator"] == ("max_draft=3",)
    assert chosen["drafter"] == ()


def test_lists_in_a_file_become_comma_separated(tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("coordinator: {verifiers: ['a:1', 'b:2']}", "utf-8")
    assert settings_by_role(file, [])["coordinator"] == ("verifiers=a:1,b:2",)


def test_without_a_file_and_flags_nothing_is_set() -> None:
    assert settings_by_role(None, []) == {"verifier": (), "drafter": (), "coordinator": ()}


@pytest.mark.parametrize("text", ["max_sessions=8", "verifier.max_sessions", "planner.x=1", "verifier=1"])
def test_a_setting_that_is_no_role_key_value_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"role\.key=value"):
        settings_by_role(None, [text])


@pytest.mark.parametrize("content", ["[1, 2]", "planner: {}", "verifier: 3", "a: [", "\t"])
def test_a_file_without_the_known_sections_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(InvalidRequest, match=r"stack\.yaml"):
        settings_by_role(file, [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.yaml"):
        settings_by_role(tmp_path / "none.yaml", [])


def test_a_pool_of_drafters_is_started_for_whoever_names_one_or_its_network() -> None:
    assert choose(StackOptions()).num_drafters == 0
    assert choose(StackOptions(link="rtt=20ms")).num_drafters == 1
    assert choose(StackOptions(link="rtt=20ms")).resident == ""
    assert choose(StackOptions(drafter="suffix")).num_drafters == 1
    assert choose(StackOptions(drafter="suffix", num_drafters=3)).num_drafters == 3


async def test_a_network_that_can_not_be_read_is_refused_before_anything_starts() -> None:
    said: list[str] = []
    with pytest.raises(InvalidRequest, match="rtt=soon"):
        async with running_stack(StackOptions(link="rtt=soon"), said.append):
            pass
    assert said == []
