"""What is tried where, and that a difference in any mode is found, on the whole system in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from paceline.cli.check import Checker, Law, parse_modes, plan
from paceline.cli.prompts import PromptRow
from paceline.client.aio import Completion
from paceline.config.settings import CoordinatorSettings, VerifierSettings
from paceline.core.errors import InvalidRequest
from paceline.core.requests import CoordinatorInfo, DraftMode, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.drafters.synthetic import SyntheticDrafter
from paceline.lab.virtual_time import run
from paceline.testing.reference import SYNTHETIC
from paceline.testing.system import drafter, local_system, verifier

ALL: list[DraftMode | None] = list(DraftMode)
LAWS = [Law("greedy", SamplingParams(), 0), Law("warm", SamplingParams(temperature=0.8), 1)]
ROWS = [PromptRow(name=str(index), task="x", text="", token_ids=(index, 2, 3)) for index in range(12)]


def test_without_modes_the_default_one_is_tried() -> None:
    assert parse_modes("") == [None]
    assert parse_modes("sync, plain,sync") == [DraftMode.SYNC, DraftMode.PLAIN]


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'fast' is no mode"):
        parse_modes("plain,fast")


def test_each_drafter_is_tried_in_the_modes_that_it_serves() -> None:
    plain, inside = DraftMode.PLAIN, DraftMode.COLOCATED
    assert plan(["colocated", "suffix"], ALL) == [
        ("colocated", [plain, inside]),
        ("suffix", [mode for mode in DraftMode if mode is not inside]),
    ]
    assert plan(["colocated", "suffix"], [inside]) == [("colocated", [inside])]
    assert plan(["colocated", "suffix"], [None]) == [("colocated", [None]), ("suffix", [None])]


@pytest.mark.parametrize(("drafters", "mode"), [(["suffix"], DraftMode.COLOCATED), (["colocated=x"], DraftMode.SYNC)])
def test_a_mode_that_no_drafter_serves_is_refused_rather_than_passed_over(drafters: list[str], mode: DraftMode) -> None:
    with pytest.raises(InvalidRequest, match=f"serves mode {mode}"):
        plan(drafters, [DraftMode.PLAIN, mode])


class System:
    """What answers like a client."""

    def __init__(self, complete: Callable[[GenerateRequest], Awaitable[Completion]]) -> None:
        self.complete = complete
        self.at_once = self.most = 0

    async def describe(self) -> CoordinatorInfo:
        return CoordinatorInfo("")


async def check(liar: DraftMode | None = None, num_sessions: int = 8) -> Checker:
    """All modes over a link with jitter; in mode ``liar`` one token of one prompt is another."""
    verifying = VerifierSettings(backend="synthetic", synthetic=replace(SYNTHETIC, step_base_s=0.03))
    lodger = SyntheticDrafter(64, SYNTHETIC)
    link = CoordinatorSettings(drafter_link="rtt=20ms,jitter=20%")
    checker = Checker(ROWS, LAWS, 24, 8, num_sessions)
    async with local_system([verifier(verifying, resident=lambda _: lodger)], [drafter()], settings=link) as system:

        async def complete(request: GenerateRequest) -> Completion:
            client.at_once += 1
            client.most = max(client.most, client.at_once)
            done = await system.complete(request)
            client.at_once -= 1
            is_lie = request.mode is liar and request.prompt == (5, 2, 3) and request.sampling.temperature
            return replace(done, token_ids=(*done.token_ids[:9], 7, *done.token_ids[10:])) if is_lie else done

        client = System(complete)
        await checker.check(client, "synthetic", ALL)
    assert client.most == num_sessions
    return checker


def test_with_links_emulated_and_eight_sessions_at_once_no_mode_changes_a_token() -> None:
    tallies = run(check()).tallies
    assert [(one.mode, one.law) for one in tallies] == [(mode, law.name) for mode in DraftMode for law in LAWS]
    assert all((one.prompts, one.tokens, one.mismatches, one.errors) == (12, 12 * 24, 0, 0) for one in tallies)
    assert all((one.accepted > 0) == (one.mode != DraftMode.PLAIN) for one in tallies)


def test_one_wrong_token_in_one_mode_is_found_there_and_said_where(capsys: pytest.CaptureFixture[str]) -> None:
    tallies = run(check(DraftMode.SYNC)).tallies
    assert [(one.mode, one.law) for one in tallies if one.mismatches] == [("sync", "warm")]
    assert "prompt 5, sync, warm: differs from token 9" in capsys.readouterr().err
