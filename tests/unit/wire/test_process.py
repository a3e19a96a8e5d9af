"""A service that can't start says why in one line, and its exit code tells bad settings from bad surroundings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest, NotFound, StoreUnavailable
from paceline.wire.process import main


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a service's main function with these flags, and no settings in the environment."""
    for name in [name for name in os.environ if name.startswith("PACELINE_")]:
        monkeypatch.delenv(name)

    def run(work: Callable[[VerifierSettings], Coroutine[Any, Any, None]], *flags: str) -> None:
        monkeypatch.setattr("sys.argv", ["verifier_service", *flags])
        main(VerifierSettings, "verifier_service", "Serves.", work)

    return run


async def nothing(settings: VerifierSettings) -> None:
    """Ends at once."""


def test_a_service_gets_its_settings_and_ends_quietly(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[VerifierSettings] = []

    async def work(settings: VerifierSettings) -> None:
        seen.append(settings)

    start(work, "--set", "max_sessions=3")
    assert seen == [VerifierSettings(max_sessions=3)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flag", ["max_sesions=3", "max_sessions=many", "max_sessions=0", "max_sessions"])
def test_bad_settings_end_with_2_and_one_line(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        start(nothing, "--set", flag)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "max_ses" in err


def test_an_error_at_the_start_ends_with_1_and_one_line(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(settings: VerifierSettings) -> None:
        raise NotFound("No model there; prepare it.")

    with pytest.raises(SystemExit) as caught:
        start(work)
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "verifier_service: No model there; prepare it.\n")


def test_errors_from_under_several_task_groups_are_one_line_each(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def work(settings: VerifierSettings) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(fail(InvalidRequest("Port in use.")))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(StoreUnavailable("No store.")))

    with pytest.raises(SystemExit) as caught:
        start(work)
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == ["verifier_service: No store.", "verifier_service: Port in use."]


def test_a_defect_keeps_its_traceback(start: Callable[..., None]) -> None:
    async def work(settings: VerifierSettings) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(work)
