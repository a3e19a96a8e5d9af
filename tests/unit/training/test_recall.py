"""Logged texts that the target reads again leave what it would have left when it made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import SamplingParams
from paceline.core.verdicts import Origin, Verdict
from paceline.models.runner import ModelRunner
from paceline.training.distil import HISTORY, NUM_TOP, Made
from paceline.training.generate import Generator, Job, Sample
from paceline.training.recall import digest_of, logged_texts, recall, recall_all
from paceline.training.replayable import is_replayable
from paceline.training.shards import read_shard, shard_files
from paceline.training.verdicts import LoggedText
from tests.support.logs import verdict, write_log
from tests.support.tiny_models import VOCAB, make_runner, random_tokens, write_model
from tests.support.tiny_texts import are_equal

TAPS = (1, -1)
CONTEXT = 128
GREEDY = SamplingParams()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return make_runner(write_model(tmp_path_factory.mktemp("target")), max_context=CONTEXT, max_sessions=4)


def generated(runner: ModelRunner, prompt_length: int) -> Sample:
    job = Job(tuple(random_tokens(prompt_length, seed=prompt_length)), max_tokens=12)
    return next(Generator(runner, taps=TAPS, history=HISTORY, num_top=NUM_TOP).run([(0, job)]))[1]


@pytest.mark.parametrize("piece", [256, 16, 7])
@pytest.mark.parametrize("prompt_length", [1, 5, HISTORY + 20])
def test_a_text_read_again_is_the_sample_that_was_generated(
    runner: ModelRunner, prompt_length: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.training.recall.PIECE", piece)
    made = generated(runner, prompt_length)
    assert are_equal(recall(runner, LoggedText("a", 0, made.tokens, prompt_length), TAPS), made)


def test_all_texts_go_into_shards_in_their_order(runner: ModelRunner, tmp_path: Path) -> None:
    texts = [LoggedText(str(seed), 0, tuple(random_tokens(20, seed=seed)), 6) for seed in range(3)]
    told: list[Made] = []
    recall_all(runner, texts, tmp_path, taps=TAPS, tell=told.append)
    samples = [one for file in shard_files(tmp_path) for one in read_shard(file)]
    assert [one.tokens for one in samples] == [text.tokens for text in texts]
    assert told == [Made(1, 3, 14), Made(2, 3, 28), Made(3, 3, 42)]


def log_of(directory: Path, *verdicts: Verdict) -> Path:
    return write_log(directory / "log", *verdicts)


def texts_in(log: Path, runner: ModelRunner) -> tuple[list[LoggedText], list[str]]:
    """And what was told of others."""
    told: list[str] = []
    return logged_texts(log, runner.loaded, told.append), told


def test_only_texts_that_are_there_from_their_beginning_are_used(runner: ModelRunner, tmp_path: Path) -> None:
    ours = runner.loaded.digest
    later = Verdict("b", 9, 3, (1, 2, 3, 4), tail=(5, 6), origin=Origin(ours, GREEDY))
    log = log_of(tmp_path, verdict("a", (1, 2), (3, 4, 5), ours), later, verdict("c", (1,), (2, 3), ours))
    assert texts_in(log, runner) == ([LoggedText("a", 0, (1, 2, 3, 4, 5), 2, Origin(ours, GREEDY))], [])


def test_texts_beyond_the_context_are_cut(runner: ModelRunner, tmp_path: Path) -> None:
    tokens, ours = tuple(random_tokens(CONTEXT + 40)), runner.loaded.digest
    log = log_of(tmp_path, verdict("a", tokens[:30], tokens[30:], ours), verdict("b", tokens, tokens[:5], ours))
    assert texts_in(log, runner)[0] == [LoggedText("a", 0, tokens[:CONTEXT], 30, Origin(ours, GREEDY))]


def test_a_log_of_another_target_is_refused_and_the_remedy_named(runner: ModelRunner, tmp_path: Path) -> None:
    log = log_of(tmp_path, verdict("a", (1, 2), (3, 4, 5), runner.loaded.digest), verdict("b", (1,), (2,), "x" * 64))
    with pytest.raises(InvalidRequest, match=r"session b is of target xxxxxxxxxxxx, not of .*; give the --target"):
        texts_in(log, runner)


def test_texts_that_do_not_say_whose_they_are_are_left_out_and_counted(runner: ModelRunner, tmp_path: Path) -> None:
    old = [Verdict(name, 2, 2, (3, 4, 5), tail=(1, 2)) for name in "bc"]
    log = log_of(tmp_path, old[0], verdict("a", (1, 2), (3, 4, 5), runner.loaded.digest), old[1])
    texts, told = texts_in(log, runner)
    assert [text.session for text in texts] == ["a"]
    assert told == ["2 of 3 texts of the log don't say whose they are, and are left out"]


def test_a_log_in_which_no_text_says_whose_it_is_is_refused(runner: ModelRunner, tmp_path: Path) -> None:
    log = log_of(tmp_path, Verdict("a", 2, 2, (3, 4, 5), tail=(1, 2)))
    with pytest.raises(InvalidRequest, match=r"an earlier version logged them. Delete them and log new ones"):
        texts_in(log, runner)


def test_tokens_and_laws_that_the_target_can_not_have_are_damage(runner: ModelRunner, tmp_path: Path) -> None:
    ours = runner.loaded.digest
    with pytest.raises(InvalidRequest, match=f"token {VOCAB} of session a is outside the target's vocabulary"):
        texts_in(log_of(tmp_path, verdict("a", (1, 2), (3, VOCAB, 5), ours)), runner)
    with pytest.raises(InvalidRequest, match="temperature"):
        texts_in(log_of(tmp_path, verdict("a", (1, 2), (3, 4), ours, SamplingParams(temperature=-1.0))), runner)


def test_a_text_keeps_the_law_that_it_was_served_by_into_its_shard(runner: ModelRunner, tmp_path: Path) -> None:
    law = SamplingParams(temperature=0.7, top_p=0.9, logit_bias=((3, -1.5),), seed=2**64 - 1)
    texts = [
        LoggedText("a", 0, tuple(random_tokens(20)), 6, Origin("t", law)),
        LoggedText("b", 0, tuple(random_tokens(20)), 6, Origin("t", GREEDY)),
    ]
    recall_all(runner, texts, tmp_path, taps=TAPS, tell=lambda _: None)
    samples = [one for file in shard_files(tmp_path) for one in read_shard(file)]
    assert [one.sampling for one in samples] == [law, GREEDY]
    assert [is_replayable(one) for one in samples] == [True, True]


def test_a_place_without_a_log_is_named(runner: ModelRunner, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no verdicts in"):
        texts_in(tmp_path, runner)


def test_the_digest_tells_texts_apart() -> None:
    text, longer = LoggedText("a", 0, (1, 2, 3), 1), LoggedText("a", 0, (1, 2, 3, 4), 1)
    assert digest_of([text]) == digest_of([LoggedText("b", 0, (1, 2, 3), 1)])
    warm = LoggedText("a", 0, (1, 2, 3), 1, Origin("t", SamplingParams(temperature=0.8)))
    assert len({digest_of(texts) for texts in ([], [text], [longer], [text, text], [warm])}) == 5
