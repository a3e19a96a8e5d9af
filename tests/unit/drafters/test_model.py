"""A language model as drafter: it says what the target says, up to where it can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DraftJob, Guess, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters import create_drafter
from paceline.drafters.model import MIN_REACH, ModelDrafter
from tests.support.tiny_models import VOCAB, make_runner, random_tokens, run, stock_model, write_model

PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=5, repetition_penalty=1.2)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def make_drafter(directory: Path, max_context: int = 128) -> ModelDrafter:
    return ModelDrafter(make_runner(directory, max_context=max_context), torch.get_num_threads())


def spec(context: Tokens, sampling: SamplingParams = PARAMS[0], session: str = "s") -> SessionSpec:
    return SessionSpec(session, context, len(context), sampling, StopRules(100))


def guess(drafter: ModelDrafter, context: Tokens, max_tokens: int, session: str = "s") -> Guess:
    return drafter.extend([DraftJob(session, context, len(context), max_tokens)])[0]


def test_greedy_guesses_are_the_librarys_text(directory: Path) -> None:
    drafter, context = make_drafter(directory), tuple(random_tokens(12))
    drafter.open(spec(context))
    model, expected = stock_model(directory), list(context)
    while len(expected) < 24:
        with torch.inference_mode():
            expected.append(int(model(torch.tensor([expected]), use_cache=False).logits[0, -1].argmax()))
    found: Tokens = ()
    while len(found) < 12:  # several calls: a guess may end early where it is unsure
        found += guess(drafter, context + found, 12 - len(found)).token_ids
    assert found == tuple(expected[12:])


def test_confidences_are_the_models_probabilities(directory: Path) -> None:
    drafter, context = make_drafter(directory), tuple(random_tokens(12))
    drafter.open(spec(context))
    found = guess(drafter, context, 6)
    rows = run(make_runner(directory), context + found.token_ids, [12 + len(found.token_ids)])
    for index, (token, confidence) in enumerate(zip(found.token_ids, found.confidences, strict=True)):
        assert confidence == pytest.approx(float(torch.softmax(rows[11 + index], 0)[token]), rel=1e-5)


def test_a_guess_ends_where_it_is_unlikely_to_be_right_altogether(directory: Path) -> None:
    drafter = make_drafter(directory)
    for seed in range(5):
        context = tuple(random_tokens(9, seed=seed))
        drafter.open(spec(context, SamplingParams(temperature=2.0, seed=seed)))
        found = guess(drafter, context, 64)
        drafter.close("s")
        reach = [1.0]
        for confidence in found.confidences:
            reach.append(reach[-1] * confidence)
        assert min(reach[:-1]) >= MIN_REACH > reach[-1] or len(found.token_ids) == 64


@pytest.mark.parametrize("params", PARAMS)
def test_sessions_drafted_together_say_what_each_says_alone(directory: Path, params: SamplingParams) -> None:
    contexts = {f"s{length}": tuple(random_tokens(length, seed=length)) for length in (1, 7, 40, 90)}
    alone = {}
    for session, context in contexts.items():
        drafter = make_drafter(directory)
        drafter.open(spec(context, params, session))
        alone[session] = guess(drafter, context, 9, session)
    drafter = make_drafter(directory)
    for session, context in contexts.items():
        drafter.open(spec(context, params, session))
    jobs = [DraftJob(session, context, len(context), 9) for session, context in contexts.items()]
    together = drafter.extend(jobs)
    assert [one.token_ids for one in together] == [alone[session].token_ids for session in contexts]


def test_long_prompts_are_fed_in_pieces(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = {session: tuple(random_tokens(length)) for session, length in (("a", 60), ("b", 5), ("c", 33))}
    guesses = []
    for prefill in (256, 16, 1):
        monkeypatch.setattr("paceline.drafters.model.PREFILL", prefill)
        drafter = make_drafter(directory)
        for session, context in contexts.items():
            drafter.open(spec(context, session=session))
        guesses.append(drafter.extend([DraftJob(one, context, len(context), 4) for one, context in contexts.items()]))
    tokens = [[one.token_ids for one in guess] for guess in guesses]
    assert tokens[0] == tokens[1] == tokens[2]


def test_guesses_end_where_the_context_does(directory: Path) -> None:
    drafter = make_drafter(directory, max_context=20)
    full = tuple(random_tokens(40))
    drafter.open(spec(full[:15]))
    for length, most in ((15, 5), (18, 2), (19, 1), (20, 0), (21, 0), (40, 0), (16, 4)):
        assert len(guess(drafter, full[:length], 8).token_ids) <= most
    assert len(guess(drafter, full[:19], 8).token_ids) == 1
    assert guess(drafter, full[:40], 8) == Guess("s", (), ())


def test_a_session_that_is_too_long_does_not_disturb_the_others(directory: Path) -> None:
    drafter = make_drafter(directory, max_context=20)
    short, long = tuple(random_tokens(9)), tuple(random_tokens(30))
    drafter.open(spec(short, session="short"))
    drafter.open(spec(long, session="long"))
    alone = guess(drafter, short, 3, "short")
    both = drafter.extend([DraftJob("long", long, 30, 3), DraftJob("short", short, 9, 3)])
    assert both == [Guess("long", (), ()), alone]


def test_ids_that_only_the_target_knows_get_no_guess(directory: Path) -> None:
    drafter = make_drafter(directory)
    drafter.open(spec((5, VOCAB)))
    assert guess(drafter, (5, VOCAB), 4) == Guess("s", (), ())
    assert len(guess(drafter, (5, VOCAB - 1), 1).token_ids) == 1


def test_parameters_about_ids_that_only_the_target_knows_are_refused_and_take_no_slot(directory: Path) -> None:
    drafter = make_drafter(directory)
    for _ in range(9):
        with pytest.raises(InvalidRequest, match="logit_bias"):
            drafter.open(spec((5, 6), SamplingParams(logit_bias=((VOCAB, 1.0),))))
    for index in range(drafter.info.max_sessions):
        drafter.open(spec((5, 6), session=f"s{index}"))


def test_it_needs_a_model_and_says_so() -> None:
    with pytest.raises(InvalidRequest, match="set it to a smaller model"):
        create_drafter(DrafterSettings(drafter="model"))


def test_it_is_loaded_as_the_settings_say(directory: Path) -> None:
    settings = DrafterSettings(drafter="model", model=str(directory), dtype="float32", max_sessions=3, max_context=50)
    info = create_drafter(settings).info
    assert (info.vocab_size, info.max_sessions, info.needs.same_tokenizer) == (VOCAB, 3, True)
    assert info.name == f"model {directory.name}"
