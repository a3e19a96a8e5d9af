"""Batches: row i joins what the target thought at position i with the token after it, and asks for the next ones."""

from __future__ import annotations

import pytest
import torch

from paceline.training.batches import Batch, Vocabulary, batches, likeliest, make_batch
from paceline.training.generate import Sample
from tests.support.tiny_texts import FEATURES, NUM_TOP, VOCAB, make_sample

BLOCK = 3
KNOWN = [token for token in range(VOCAB) if token % 4]
VOCABULARY = Vocabulary(KNOWN, VOCAB)
OWN = {token: own for own, token in enumerate(KNOWN)}
SAMPLES = [make_sample(20, 6, 2, seed=1), make_sample(9, 1, 0, seed=2), make_sample(30, 25, 17, seed=3)]
BATCH = make_batch(SAMPLES, VOCABULARY, BLOCK)
FIELDS = ("features", "words", "targets", "is_scored", "valid", "positions", "top_ids", "top_logprobs")


def own(token: int) -> int:
    return OWN.get(token, len(KNOWN))


def rows(sample: Sample) -> int:
    return len(sample.tokens) - 1 - sample.features_start


def test_tokens_that_the_drafter_does_not_know_share_one_id() -> None:
    assert len(VOCABULARY) == len(KNOWN)
    assert VOCABULARY.own(torch.arange(VOCAB)).tolist() == [own(token) for token in range(VOCAB)]
    assert VOCABULARY.own(torch.tensor([[5, 4], [0, 39]], dtype=torch.int32)).tolist() == [
        [own(5), own(4)],
        [own(0), own(39)],
    ]
    assert torch.equal(Vocabulary(KNOWN[::-1], VOCAB).token_ids, VOCABULARY.token_ids)


def test_the_likeliest_tokens_are_those_seen_most_and_those_that_must_be_there() -> None:
    counts = torch.tensor([5.0, 0.0, 7.0, 1.0, 6.0])
    assert likeliest(counts, 2) == [2, 4]
    assert likeliest(counts, 3, always=(1,)) == [1, 2, 4]
    assert likeliest(counts, 9) == [0, 1, 2, 3, 4]
    assert counts.tolist() == [5.0, 0.0, 7.0, 1.0, 6.0]


def test_rows_are_padded_to_the_longest_sample() -> None:
    longest = max(rows(sample) for sample in SAMPLES)
    assert BATCH.features.shape == (3, longest, FEATURES)
    assert BATCH.targets.shape == BATCH.is_scored.shape == (3, longest, BLOCK)
    assert BATCH.top_ids.shape == BATCH.top_logprobs.shape == (3, longest, BLOCK, NUM_TOP)
    assert BATCH.valid.sum(1).tolist() == [rows(sample) for sample in SAMPLES]
    for valid in BATCH.valid:
        assert valid.tolist() == sorted(valid.tolist(), reverse=True)
    assert not BATCH.is_scored[~BATCH.valid].any()


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_a_row_stands_for_its_position(index: int) -> None:
    sample = SAMPLES[index]
    assert sample.features is not None
    assert torch.equal(BATCH.features[index, : rows(sample)], sample.features)
    for row in range(rows(sample)):
        position = sample.features_start + row
        assert int(BATCH.positions[index, row]) == position
        assert int(BATCH.words[index, row]) == own(sample.tokens[position + 1])


@pytest.mark.parametrize("index", range(len(SAMPLES)))
def test_place_j_asks_for_the_token_j_plus_two_positions_on(index: int) -> None:
    sample = SAMPLES[index]
    assert sample.top_ids is not None
    assert sample.top_logprobs is not None
    num_scored = 0
    for row in range(rows(sample)):
        for place in range(BLOCK):
            ahead = sample.features_start + row + 2 + place
            is_scored = sample.prompt_length < ahead < len(sample.tokens)
            assert bool(BATCH.is_scored[index, row, place]) == is_scored
            if is_scored:
                made = ahead - sample.prompt_length
                assert int(BATCH.targets[index, row, place]) == own(sample.tokens[ahead])
                assert BATCH.top_ids[index, row, place].tolist() == [own(one) for one in sample.top_ids[made].tolist()]
                assert torch.equal(BATCH.top_logprobs[index, row, place], sample.top_logprobs[made])
                num_scored += 1
    assert num_scored > 0


def test_only_what_the_target_made_is_scored() -> None:
    """Of its output all but the first token, after which there is a first chance to guess."""
    first_places = BATCH.is_scored[..., 0].sum(1).tolist()
    assert first_places == [len(one.tokens) - one.prompt_length - 1 for one in SAMPLES]


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


MANY = [make_sample(8 + seed % 23, 3, 0, seed=seed) for seed in range(60)]


def test_an_epoch_has_every_sample_once_in_batches_of_about_the_wanted_size() -> None:
    made = list(batches(MANY, VOCABULARY, BLOCK, 64, seed=5))
    found = [batch.features[i, valid] for batch in made for i, valid in enumerate(batch.valid)]
    expected = [one.features for one in MANY if one.features is not None]
    assert len(found) == len(MANY)
    for features in expected:
        assert sum(torch.equal(features, one) for one in found) == 1
    assert all(batch.valid.numel() <= 64 for batch in made)
    assert sum(int(batch.valid.sum()) for batch in made) / sum(batch.valid.numel() for batch in made) > 0.8


def test_a_sample_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    made = list(batches(MANY[:5], VOCABULARY, BLOCK, 4, seed=0))
    assert [len(batch.valid) for batch in made] == [1] * 5


def test_epochs_of_the_same_seed_are_equal_and_others_are_not() -> None:
    one, same, other = (list(batches(MANY, VOCABULARY, BLOCK, 64, seed=seed)) for seed in (5, 5, 6))
    assert len(one) == len(same)
    assert all(equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(equal(a, b) for a, b in zip(one, other, strict=False))
