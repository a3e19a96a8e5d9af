"""One suite for every drafter: guesses are bounded, ordered and the context's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.config.settings import DrafterSettings, SyntheticSettings, VerifierSettings
from paceline.core.errors import ResourceExhausted
from paceline.core.ports import Drafter
from paceline.core.types import Draft, DraftJob, Guess, SamplingParams, SessionSpec, StepItem, StopRules, Tokens
from paceline.drafters import create_drafter
from paceline.drafters.suffix import SuffixDrafter
from paceline.speculation.draft_tree import check_draft
from paceline.telemetry.clock import SystemClock
from paceline.verifiers import create_backend
from tests.support.tiny_drafters import make_medusa, write_drafter
from tests.support.tiny_models import VOCAB, random_tokens, write_model

SEATS = 4
Make = Callable[[], Drafter]
CONTEXT = (5, 6, 7, 8, 9, 5, 6, 7, 10, 11, 5, 6)
NAMES = ["ngram", "suffix", "suffix with a corpus", "model", "mtp", "medusa", "random", "synthetic", "mix:suffix,ngram"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("trained") / "tiny")


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("trained") / "heads", trained=make_medusa())


@pytest.fixture(scope="module", params=NAMES)
def make(request: pytest.FixtureRequest, directory: Path, trained: Path, heads: Path) -> Make:
    """New drafters of one kind."""
    if request.param == "suffix with a corpus":
        return lambda: SuffixDrafter(SEATS, [random_tokens(300, seed=1), CONTEXT * 3])
    models = {"model": str(directory), "mtp": str(trained), "medusa": str(heads)}
    made = DrafterSettings(
        drafter=request.param,
        model=models.get(request.param, ""),
        vocab_size=VOCAB,
        dtype="float32",
        max_sessions=SEATS,
        max_context=128,
        synthetic=SyntheticSettings(vocab_size=VOCAB),
    )
    return lambda: create_drafter(made)


@pytest.fixture(scope="module")
def shared(make: Make) -> Drafter:
    return make()


@pytest.fixture(scope="module")
def other(make: Make) -> Drafter:
    return make()


@pytest.fixture
def drafter(shared: Drafter) -> Drafter:
    """Without sessions; made once per kind."""
    for session in ("s", "a", "b", "c", "d", "e"):
        shared.close(session)
    return shared


def follows_only_from_the_context(drafter: Drafter) -> bool:
    """A mix learns in every session whom to follow, and one that guesses at random follows nothing."""
    return drafter.info.name != "random" and not drafter.info.name.startswith("mix")


def spec(session: str, context: Tokens, sampling: SamplingParams | None = None) -> SessionSpec:
    return SessionSpec(session, context, 1, sampling or SamplingParams(), StopRules(100))


def job(session: str, context: Tokens, max_tokens: int = 5, *, path: Tokens = ()) -> DraftJob:
    return DraftJob(session, context + path, len(context), max_tokens)


def check(guess: Guess, one: DraftJob) -> None:
    assert guess.session == one.session
    assert len(guess.token_ids) <= one.max_tokens
    assert all(0 <= token < VOCAB for token in guess.token_ids)
    assert len(guess.confidences) in (0, len(guess.token_ids))
    assert all(0.0 <= confidence <= 1.0 for confidence in guess.confidences)
    check_draft(Draft(one.session, len(one.context), guess.token_ids, guess.confidences, guess.branches), VOCAB)
    assert all(branch.parent == 0 for branch in guess.branches)


def asked_anew(other: Drafter, one: DraftJob) -> Guess:
    """The guess of a drafter of the same kind that sees this session's context for the first time."""
    other.open(spec(one.session, one.context[: one.committed]))
    guess = other.extend([one])[0]
    other.close(one.session)
    return guess


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_guesses_are_bounded_and_follow_only_from_the_context(
    data: st.DataObject, shared: Drafter, other: Drafter
) -> None:
    """Commits come, paths are guessed and dropped; each guess is what a new drafter would say."""
    committed = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=20)))
    shared.close("s")
    shared.open(spec("s", committed))
    one = job("s", committed)
    for _ in range(data.draw(st.integers(1, 5))):
        committed += tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
        path = tuple(data.draw(st.lists(st.integers(0, 6), max_size=6)))
        one = job("s", committed, data.draw(st.integers(0, 9)), path=path)
        guess = shared.extend([one])[0]
        check(guess, one)
    if follows_only_from_the_context(shared):
        assert guess.token_ids == asked_anew(other, one).token_ids


def test_a_path_that_was_dropped_leaves_no_trace(drafter: Drafter, other: Drafter) -> None:
    drafter.open(spec("s", CONTEXT))
    for path in ((7, 8, 9), (7, 70, 71, 72, 73), (), (80,), (7, 8)):
        one = job("s", CONTEXT, path=path)
        guess = drafter.extend([one])[0]
        check(guess, one)
        if follows_only_from_the_context(drafter):
            assert guess.token_ids == asked_anew(other, one).token_ids


def test_guesses_come_in_the_order_of_the_jobs(drafter: Drafter, other: Drafter) -> None:
    contexts = {"a": CONTEXT, "b": CONTEXT[3:], "c": (50,), "d": tuple(random_tokens(40))}
    for session, context in contexts.items():
        drafter.open(spec(session, context))
    for order in ("abcd", "dcba", "ca", "b"):
        jobs = [job(session, contexts[session]) for session in order]
        guesses = drafter.extend(jobs)
        for guess, one in zip(guesses, jobs, strict=True):
            check(guess, one)
            if follows_only_from_the_context(drafter):
                assert guess.token_ids == asked_anew(other, one).token_ids


def test_no_jobs_no_guesses(drafter: Drafter) -> None:
    assert drafter.extend([]) == []


def test_nothing_is_guessed_when_nothing_may_be(drafter: Drafter) -> None:
    drafter.open(spec("s", CONTEXT))
    assert drafter.extend([job("s", CONTEXT, 0)])[0].token_ids == ()


def test_sessions_do_not_learn_from_each_other(drafter: Drafter, other: Drafter) -> None:
    if not follows_only_from_the_context(drafter):
        return
    drafter.open(spec("a", (1, 2, 3, 4) * 5))
    drafter.extend([job("a", (1, 2, 3, 4) * 5)])
    drafter.open(spec("b", (9, 2, 3)))
    one = job("b", (9, 2, 3))
    assert drafter.extend([one])[0].token_ids == asked_anew(other, one).token_ids
    drafter.close("a")
    assert drafter.extend([one])[0].token_ids == asked_anew(other, one).token_ids


def test_a_session_opened_again_under_the_same_name_starts_anew(drafter: Drafter, other: Drafter) -> None:
    drafter.open(spec("s", (1, 2, 3, 4) * 5))
    drafter.extend([job("s", (1, 2, 3, 4) * 5)])
    drafter.close("s")
    drafter.open(spec("s", (9, 2, 3)))
    one = job("s", (9, 2, 3))
    guess = drafter.extend([one])[0]
    check(guess, one)
    if follows_only_from_the_context(drafter):
        assert guess.token_ids == asked_anew(other, one).token_ids


def test_closing_unknown_sessions_is_ignored(drafter: Drafter) -> None:
    drafter.close("nobody")
    drafter.open(spec("s", CONTEXT))
    drafter.close("s")
    drafter.close("s")


def test_there_is_room_for_as_many_sessions_as_it_says(drafter: Drafter) -> None:
    assert drafter.info.max_sessions == SEATS
    for session in "abcd":
        drafter.open(spec(session, CONTEXT))
    with pytest.raises(ResourceExhausted, match=f"All {SEATS}"):
        drafter.open(spec("e", CONTEXT))
    drafter.close("c")
    drafter.open(spec("e", CONTEXT))
    check(drafter.extend([job("e", CONTEXT)])[0], job("e", CONTEXT))


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=11)])
async def test_the_target_drafting_for_itself_is_always_right(directory: Path, sampling: SamplingParams) -> None:
    """Noise is shared by seed and position, so drafter and target draw the same tokens at any temperature."""
    context = tuple(random_tokens(17))
    target = create_backend(
        VerifierSettings(model=str(directory), dtype="float32", max_sessions=2, max_context=128), SystemClock()
    )
    drafter = create_drafter(DrafterSettings(drafter="model", model=str(directory), dtype="float32", max_context=128))
    for room in (target, drafter):
        room.open(spec("s", context, sampling))
    tokens, cached = list(context), 0
    for _ in range(12):
        guess = drafter.extend([job("s", tuple(tokens), 4)])[0]
        item = StepItem("s", cached, (*tokens[cached:], *guess.token_ids), num_draft=len(guess.token_ids))
        outcome = (await target.step([item])).outcomes[0]
        assert outcome.token_ids[:-1] == guess.token_ids
        cached = len(tokens) + outcome.accepted
        tokens += outcome.token_ids
    assert len(tokens) > 17 + 2 * 12


def test_its_memory_is_that_of_its_sessions_and_goes_with_them(drafter: Drafter) -> None:
    before = drafter.state_bytes()
    drafter.open(spec("s", CONTEXT))
    drafter.extend([job("s", CONTEXT)])
    during = drafter.state_bytes()
    drafter.close("s")
    assert drafter.state_bytes() == before
    assert during >= before
    assert (during > before) == (drafter.info.name not in ("random", "synthetic"))
