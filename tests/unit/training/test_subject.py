"""What every kind of training starts from: which samples are held out, which tokens a drafter can say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from paceline.core.errors import InvalidRequest
from paceline.drafters.description import TargetIdentity
from paceline.models.loading import load
from paceline.training.generate import Sample
from paceline.training.shards import ShardWriter
from paceline.training.subject import (
    FEWEST_SAMPLES,
    Subject,
    choose_vocabulary,
    default_taps,
    identity,
    read_samples,
)
from tests.support.tiny_models import VOCAB as TARGET_VOCAB
from tests.support.tiny_models import write_model, write_tokenizer
from tests.support.tiny_texts import VOCAB, make_sample


def write(directory: Path, samples: list[Sample]) -> Path:
    writer = ShardWriter(directory)
    for index, sample in enumerate(samples):
        writer.add(index, sample)
    writer.close()
    return directory


def many(count: int) -> list[Sample]:
    return [make_sample(10, 4, 0, seed=seed) for seed in range(count)]


@pytest.mark.parametrize(("count", "num_held"), [(8, 4), (99, 5), (100, 4), (101, 5), (1000, 40)])
def test_every_so_many_th_sample_is_held_out(tmp_path: Path, count: int, num_held: int) -> None:
    train, held = read_samples(write(tmp_path, many(count)))
    assert len(held) == num_held
    assert sorted(one.seed for one in train + held) == list(range(count))


def test_no_more_are_held_out_than_it_takes_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.training.subject.MOST_HELD_OUT", 3)
    train, held = read_samples(write(tmp_path, many(60)))
    assert [one.seed for one in held] == [0, 15, 30]
    assert sorted(one.seed for one in train + held) == list(range(60))


def test_samples_too_short_to_guess_in_or_without_what_is_learned_from_are_left_out(tmp_path: Path) -> None:
    short = [make_sample(4 + made, 4, 0, seed=100 + made) for made in (1, 2, 3)]
    train, held = read_samples(write(tmp_path, [*many(10), *short]))
    assert sorted(one.seed for one in train + held) == [*range(10), 103]
    for missing in (("features",), ("top_ids", "top_logprobs")):
        bare = [dataclasses.replace(one, **dict.fromkeys(missing)) for one in many(10)]
        with pytest.raises(InvalidRequest, match="has 0 usable samples"):
            read_samples(write(tmp_path / missing[0], bare))


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    write(tmp_path, many(FEWEST_SAMPLES - 1))
    with pytest.raises(InvalidRequest, match=f"has {FEWEST_SAMPLES - 1} usable samples; give at least"):
        read_samples(tmp_path)
    with pytest.raises(InvalidRequest, match="has 0 usable samples"):
        read_samples(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("num_layers", "taps"), [(1, (1, 1, -1)), (2, (1, 1, -1)), (3, (1, 2, -1)), (30, (10, 20, -1))]
)
def test_taps_are_low_middle_and_high(num_layers: int, taps: tuple[int, ...]) -> None:
    assert default_taps(num_layers) == taps


def test_a_target_in_memory_is_identified(tmp_path: Path) -> None:
    directory = write_tokenizer(write_model(tmp_path / "tiny", num_hidden_layers=3))
    loaded = load(directory, torch.float32, max_context=64)
    assert loaded.tokenizer_digest
    assert identity(loaded) == TargetIdentity(
        "tiny", loaded.digest, loaded.tokenizer_digest, TARGET_VOCAB, hidden_size=64, num_layers=3
    )


def subject(samples: list[Sample], stops: tuple[int, ...] = ()) -> Subject:
    target = TargetIdentity("t", "d", "", VOCAB, 4, 2)
    return Subject(target, torch.zeros(VOCAB, 4), stops, samples, samples[:1])


def test_the_drafter_can_say_what_the_target_says_most_often() -> None:
    """Prompts don't count."""
    outputs = [(7, 7, 7, 9, 9, 3), (7, 9, 5, 7, 11, 7)]
    samples = [Sample((20, 20, 20, 20, *output), 4) for output in outputs]
    vocabulary, coverage = choose_vocabulary(subject(samples), 2)
    assert vocabulary.token_ids.tolist() == [7, 9]
    assert coverage == 9 / 12


def test_the_drafter_can_always_say_that_a_text_ends() -> None:
    samples = [Sample((20, 7, 7, 9, 9, 3), 1)]
    vocabulary, coverage = choose_vocabulary(subject(samples, stops=(2,)), 3)
    assert vocabulary.token_ids.tolist() == [2, 7, 9]
    assert coverage == pytest.approx(4 / 5)


def test_a_vocabulary_is_no_larger_than_the_targets() -> None:
    vocabulary, coverage = choose_vocabulary(subject(many(3)), 10_000)
    assert vocabulary.token_ids.tolist() == list(range(VOCAB))
    assert coverage == 1.0
