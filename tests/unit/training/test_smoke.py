"""The made-up language of ``paceline train --smoke``."""

from __future__ import annotations

import itertools

import numpy as np

from paceline.training.smoke import FIRST_WORD, VOCAB, WORDS, Language


def test_a_text_is_settled_by_its_first_two_words() -> None:
    texts = Language(0).texts(2_000, 30, seed=1)
    starts = {(a, b): tuple(rest) for a, b, *rest in texts.tolist()}
    assert all(starts[a, b] == tuple(rest) for a, b, *rest in texts.tolist())
    assert len(starts) > 1_000


def test_the_voices_take_turns_with_words_of_their_own() -> None:
    texts = Language(0).texts(100, 30, seed=1)
    middle = FIRST_WORD + WORDS
    assert (texts[:, ::2] >= FIRST_WORD).all()
    assert (texts[:, ::2] < middle).all()
    assert (texts[:, 1::2] >= middle).all()
    assert (texts[:, 1::2] < VOCAB).all()


def test_pairs_of_words_seldom_come_back_within_a_text() -> None:
    texts = Language(0).texts(200, 64, seed=1).tolist()
    pairs = [len(set(itertools.pairwise(text))) for text in texts]
    assert np.mean(pairs) > 50


def test_another_seed_speaks_another_language() -> None:
    one, other = (Language(seed).texts(50, 30, seed=1) for seed in (0, 1))
    assert (one[:, :2] == other[:, :2]).all()
    assert not (one == other).all()
