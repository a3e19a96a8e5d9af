"""Regenerating: every prompt is answered once, an interrupted run goes on, and what can't work is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest
from paceline.core.types import Tokens
from paceline.models.runner import ModelRunner
from paceline.training.distil import HISTORY, NUM_TOP, DistilOptions, Made, distil, prompt_ids
from paceline.training.generate import Generator, Job, Sample
from paceline.training.prompts import TrainingPrompt
from paceline.training.shards import done_prompts, read_shard, shard_files
from tests.support.tiny_models import VOCAB, make_runner, random_tokens, write_model, write_tokenizer
from tests.support.tiny_texts import are_equal

TAPS = (1, -1)
PROMPTS: list[Tokens] = [tuple(random_tokens(3 + 5 * seed, seed=seed)) for seed in range(12)]
OPTIONS = DistilOptions(max_tokens=6, sampled_share=0.5, temperature=0.9)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return make_runner(write_model(tmp_path_factory.mktemp("target")), max_context=128, max_sessions=4)


def run(
    runner: ModelRunner, directory: Path, prompts: list[Tokens] = PROMPTS, options: DistilOptions = OPTIONS
) -> list[Made]:
    told: list[Made] = []
    distil(runner, prompts, directory, options, taps=TAPS, tell=told.append)
    return told


def by_prompt(directory: Path) -> dict[Tokens, Sample]:
    samples = [one for file in shard_files(directory) for one in read_shard(file)]
    made = {one.tokens[: one.prompt_length]: one for one in samples}
    assert len(made) == len(samples)
    return made


@pytest.fixture(scope="module")
def whole(runner: ModelRunner, tmp_path_factory: pytest.TempPathFactory) -> dict[Tokens, Sample]:
    directory = tmp_path_factory.mktemp("whole")
    run(runner, directory)
    return by_prompt(directory)


def test_every_prompt_is_answered_with_what_training_needs(runner: ModelRunner, whole: dict[Tokens, Sample]) -> None:
    assert sorted(whole) == sorted(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        sample = whole[prompt]
        job = Job(prompt, sample.temperature, 6, seed=index)
        generator = Generator(runner, taps=TAPS, history=HISTORY, num_top=NUM_TOP)
        assert are_equal(sample, next(one for _, one in generator.run([(index, job)])))
    assert {one.temperature for one in whole.values()} == {0.0, 0.9}


def test_progress_is_told_after_every_text(runner: ModelRunner, tmp_path: Path) -> None:
    told = run(runner, tmp_path)
    assert [(one.num_prompts, one.total) for one in told] == [(count, 12) for count in range(1, 13)]
    texts = by_prompt(tmp_path).values()
    assert told[-1].num_tokens == sum(len(one.tokens) - one.prompt_length for one in texts)


def test_an_interrupted_run_goes_on_to_the_same_data(
    runner: ModelRunner, whole: dict[Tokens, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.training.shards.SAMPLES", 3)

    class _InterruptedError(Exception):
        pass

    def interrupt(made: Made) -> None:
        if made.num_prompts == 8:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        distil(runner, PROMPTS, tmp_path, OPTIONS, taps=TAPS, tell=interrupt)
    for index in range(len(PROMPTS)):
        runner.close(str(index))
    assert len(done_prompts(tmp_path)) == 6
    told = run(runner, tmp_path)
    assert (told[0].num_prompts, told[-1].num_prompts) == (7, 12)
    found = by_prompt(tmp_path)
    assert found.keys() == whole.keys()
    assert all(are_equal(found[prompt], whole[prompt]) for prompt in PROMPTS)


def test_nothing_is_left_to_do_the_second_time(runner: ModelRunner, tmp_path: Path) -> None:
    run(runner, tmp_path)
    files = shard_files(tmp_path)
    assert run(runner, tmp_path) == []
    assert shard_files(tmp_path) == files


def test_prompts_may_be_added_behind_the_others(runner: ModelRunner, tmp_path: Path) -> None:
    run(runner, tmp_path, PROMPTS[:5])
    assert [one.num_prompts for one in run(runner, tmp_path)] == list(range(6, 13))


@pytest.mark.parametrize("others", [PROMPTS[1:], PROMPTS[:3], [(5, 6), *PROMPTS[1:]]])
def test_data_of_other_prompts_are_refused(runner: ModelRunner, tmp_path: Path, others: list[Tokens]) -> None:
    run(runner, tmp_path, PROMPTS[:5])
    with pytest.raises(InvalidRequest, match=r"data: .* has an answer to another prompt \d; give the same --prompts"):
        run(runner, tmp_path, others)


def test_long_prompts_lose_their_beginning(runner: ModelRunner, tmp_path: Path) -> None:
    prompt = tuple(random_tokens(300, seed=3))
    run(runner, tmp_path, [prompt])
    (sample,) = by_prompt(tmp_path).values()
    assert sample.tokens[: sample.prompt_length] == prompt[-122:]
    assert run(runner, tmp_path, [prompt]) == []


def test_tokens_that_the_target_does_not_have_are_refused(runner: ModelRunner, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"prompts: token {VOCAB} of prompt 2 is outside .* of {VOCAB}; use"):
        run(runner, tmp_path, [(5, 6), (7, VOCAB)])
    assert list(tmp_path.iterdir()) == []


def test_answers_that_leave_no_room_for_a_prompt_are_refused(runner: ModelRunner, tmp_path: Path) -> None:
    for most in (128, 500):
        with pytest.raises(InvalidRequest, match=f"max_tokens: {most} leave no room for a prompt.* 128 .*lower it"):
            run(runner, tmp_path, options=DistilOptions(max_tokens=most))
    run(runner, tmp_path, PROMPTS[:2], DistilOptions(max_tokens=127, sampled_share=0.0))
    assert {one.prompt_length for one in by_prompt(tmp_path).values()} == {1}


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    prompts = [TrainingPrompt((), (5, 6)), TrainingPrompt((), (7,))]
    assert prompt_ids(prompts, tmp_path) == [(5, 6), (7,)]


def test_texts_are_encoded_by_the_targets_tokenizer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    prompts = [TrainingPrompt((("user", "t5 t6"), ("assistant", "t7"))), TrainingPrompt((), (9,))]
    assert prompt_ids(prompts, tmp_path) == [(5, 6, 7), (9,)]


def test_the_same_seed_samples_the_same_prompts(runner: ModelRunner, tmp_path: Path) -> None:
    prompts = [(token,) for token in range(3, 93)]

    def sampled(seed: int) -> list[Tokens]:
        directory = tmp_path / f"{seed} {len(list(tmp_path.iterdir()))}"
        run(runner, directory, prompts, DistilOptions(max_tokens=1, sampled_share=0.3, seed=seed))
        return sorted(prompt for prompt, sample in by_prompt(directory).items() if sample.temperature)

    one = sampled(1)
    assert 15 < len(one) < 40
    assert sampled(1) == one
    assert sampled(2) != one
