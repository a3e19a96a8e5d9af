"""Logged texts that the target reads again leave what it would have left when it made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.verdicts import Verdict
from paceline.models.runner import ModelRunner
from paceline.training.distil import HISTORY, NUM_TOP, Made
from paceline.training.generate import Generator, Job, Sample
from paceline.training.recall import digest_of, logged_texts, recall, recall_all
from paceline.training.shards import read_shard, shard_files
from paceline.training.verdicts import LoggedText
from tests.support.logs import verdict, write_log
from tests.support.tiny_models import VOCAB, make_runner, random_tokens, write_model
from tests.support.tiny_texts import are_equal

TAPS = (1, -1)
CONTEXT = 128


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


def test_only_texts_that_are_there_from_their_beginning_are_used(runner: ModelRunner, tmp_path: Path) -> None:
    later = Verdict("b", 9, 3, (1, 2, 3, 4), tail=(5, 6))
    log = write_log(tmp_path / "log", verdict("a", (1, 2), (3, 4, 5)), later, verdict("c", (1,), (2, 3)))
    assert logged_texts(log, runner) == [LoggedText("a", 0, (1, 2, 3, 4, 5), 2)]


def test_texts_beyond_the_context_are_cut(runner: ModelRunner, tmp_path: Path) -> None:
    tokens = tuple(random_tokens(CONTEXT + 40))
    log = write_log(tmp_path / "log", verdict("a", tokens[:30], tokens[30:]), verdict("b", tokens, tokens[:5]))
    assert logged_texts(log, runner) == [LoggedText("a", 0, tokens[:CONTEXT], 30)]


def test_a_log_of_another_target_is_refused(runner: ModelRunner, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", verdict("a", (1, 2), (3, VOCAB, 5)))
    with pytest.raises(InvalidRequest, match=f"token {VOCAB} of session a is outside the target's vocabulary"):
        logged_texts(log, runner)


def test_a_place_without_a_log_is_named(runner: ModelRunner, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no verdicts in"):
        logged_texts(tmp_path, runner)


def test_the_digest_tells_texts_apart() -> None:
    text, longer = LoggedText("a", 0, (1, 2, 3), 1), LoggedText("a", 0, (1, 2, 3, 4), 1)
    assert digest_of([text]) == digest_of([LoggedText("b", 0, (1, 2, 3), 1)])
    assert len({digest_of(texts) for texts in ([], [text], [longer], [text, text])}) == 4
