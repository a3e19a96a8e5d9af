"""Verdicts of a session: only with everybody's leave, complete, and with what was guessed at each position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.requests import Admitted, admit
from coordinator.verdicts import SessionVerdicts
from paceline.config.settings import CoordinatorSettings, DrafterSettings
from paceline.core.requests import GenerateRequest
from paceline.core.types import Commit, Draft, Graft, Profile, SamplingParams, Tokens, VerifierInfo
from paceline.core.verdicts import Origin, Verdict
from paceline.speculation.draft_tree import key_of
from paceline.telemetry.verdicts import log_files
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import drafter, local_system
from paceline.training.verdicts import LoggedText, merge, read_verdicts

PROMPT = (1, 2, 3)
REQUEST = GenerateRequest(PROMPT, max_tokens=40, seed=7, allow_learning=True)
WHOLE = (*PROMPT, *reference(PROMPT, 40))
INFO = VerifierInfo("v", "m", "", "n", 64, 100, 4)
ORIGIN = Origin("m", SamplingParams(seed=7))


# --- through a whole system ------------------------------------------------------------------------------------------


async def logged(directory: Path, request: GenerateRequest = REQUEST, agreement: float = 0.8) -> list[Verdict]:
    """What a request leaves in the log."""
    guessing = DrafterSettings(drafter="synthetic", synthetic=replace(SYNTHETIC, agreement=agreement))
    settings = CoordinatorSettings(verdict_log=str(directory))
    async with local_system(drafters=[drafter(guessing)], settings=settings) as system:
        assert (await system.complete(request)).token_ids == WHOLE[3:]
    return list(read_verdicts(directory)) if log_files(directory) else []


@pytest.mark.looptime
async def test_the_records_of_a_request_are_its_whole_text(tmp_path: Path) -> None:
    kept = await logged(tmp_path)
    (text,) = merge(kept)
    assert text.origin is not None
    assert text == LoggedText(text.session, 0, WHOLE, 3, text.origin)
    assert [one.tail for one in kept] == [PROMPT] + [()] * (len(kept) - 1)


@pytest.mark.looptime
async def test_the_first_record_says_which_target_it_is_of_and_by_which_law_and_profile(tmp_path: Path) -> None:
    law = SamplingParams(temperature=0.8, top_p=0.9, seed=7)
    settings = CoordinatorSettings(verdict_log=str(tmp_path))
    async with local_system(settings=settings) as system:
        await system.complete(replace(REQUEST, sampling=law, profile=Profile.CODE))
        (target,) = [one.info for one in system.coordinator.describe().verifiers]
    kept = list(read_verdicts(tmp_path))
    assert isinstance(target, VerifierInfo)
    assert [one.origin for one in kept] == [Origin(target.model_digest, law, Profile.CODE)] + [None] * (len(kept) - 1)


@pytest.mark.looptime
async def test_a_record_holds_the_guess_the_outcome_and_who_guessed(tmp_path: Path) -> None:
    checked = [one for one in await logged(tmp_path, agreement=1.0) if one.drafted]
    assert len(checked) > 1
    for one in checked:
        assert one.draft == WHOLE[one.start : one.start + len(one.draft)]
        assert len(one.draft) >= one.drafted == one.accepted
        assert one.source == "synthetic"


@pytest.mark.looptime
async def test_a_guess_that_was_refuted_is_in_its_record(tmp_path: Path) -> None:
    refuted = [one for one in await logged(tmp_path, agreement=0.5) if one.accepted < one.drafted]
    assert refuted
    for one in refuted:
        assert one.draft[: one.accepted] == one.tokens[: one.accepted]
        assert one.draft[one.accepted] != one.tokens[one.accepted]


@pytest.mark.looptime
async def test_without_the_clients_leave_nothing_is_written(tmp_path: Path) -> None:
    assert await logged(tmp_path, replace(REQUEST, allow_learning=False)) == []


@pytest.mark.looptime
async def test_without_the_operators_leave_there_is_no_log(tmp_path: Path) -> None:
    async with local_system() as system:
        assert (await system.complete(REQUEST)).token_ids == WHOLE[3:]
        assert not system.around.verdicts.is_on


# --- one session by hand ---------------------------------------------------------------------------------------------


class Sink:
    """Keeps what it is given, and may refuse it."""

    def __init__(self, accepts: Callable[[int], bool] = lambda number: True) -> None:
        self.is_on = True
        self.generation = 0
        self.kept: list[Verdict] = []
        self._accepts = accepts
        self._number = 0

    def put(self, verdict: Verdict) -> bool:
        self._number += 1
        if self._accepts(self._number):
            self.kept.append(verdict)
        return self._accepts(self._number)


def admitted(request: GenerateRequest = REQUEST) -> Admitted:
    return admit(request, CoordinatorSettings(), None, INFO, "r")


def commits(verdicts: SessionVerdicts, *steps: Tokens) -> None:
    output: list[int] = []
    for step in steps:
        verdicts.committed(Commit("s", 3 + len(output), step), output)
        output += step


def test_what_was_dropped_leaves_no_gap_since_the_context_is_given_again() -> None:
    sink = Sink(accepts=lambda number: number not in (2, 3))
    commits(SessionVerdicts(sink, admitted()), (4,), (5, 6), (7,), (8,), (9,))
    assert [one.tail for one in sink.kept] == [PROMPT, (1, 2, 3, 4, 5, 6, 7), ()]
    assert merge(sink.kept)[-1] == LoggedText("s", 0, (1, 2, 3, 4, 5, 6, 7, 8, 9), 3, ORIGIN)
    assert [one.origin for one in sink.kept] == [ORIGIN, ORIGIN, None]


def test_in_a_new_file_the_context_is_given_again() -> None:
    sink = Sink()
    verdicts = SessionVerdicts(sink, admitted())
    verdicts.committed(Commit("s", 3, (4,)), [])
    sink.generation += 1
    verdicts.committed(Commit("s", 4, (5,)), [4])
    verdicts.committed(Commit("s", 5, (6,)), [4, 5])
    assert [one.tail for one in sink.kept] == [PROMPT, (*PROMPT, 4), ()]


def test_a_log_that_switched_itself_off_is_told_nothing_more() -> None:
    sink = Sink()
    sink.is_on = False
    commits(SessionVerdicts(sink, admitted()), (4,))
    assert sink.kept == []


@pytest.mark.parametrize(
    ("draft", "guessed"),
    [
        (Draft("s", 3, (4, 5, 6, 7)), (6, 7)),
        (Draft("s", 5, (6, 7)), (6, 7)),
        (Draft("s", 4, (5,)), ()),
        (Draft("s", 3, (4, 9, 6, 7)), ()),
        (Draft("s", 5, ()), ()),
        (Draft("s", 0, (1, 2)), ()),
        (Draft("s", 9, (1, 2)), ()),
        (Draft("s", 3, (4, 5, 6), grafts=(Graft(key_of((4, 5, 6)), (7, 8)),)), (6, 7, 8)),
    ],
)
def test_of_a_late_draft_only_what_still_agrees_counts_as_a_guess(draft: Draft, guessed: Tokens) -> None:
    sink = Sink()
    verdicts = SessionVerdicts(sink, admitted())
    verdicts.committed(Commit("s", 3, (4, 5)), [])
    verdicts.drafted(draft, "someone")
    verdicts.committed(Commit("s", 5, (6,), drafted=1, accepted=1), [4, 5])
    assert (sink.kept[1].draft, sink.kept[1].source) == (guessed, "someone")
