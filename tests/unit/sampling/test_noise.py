"""The noise is Philox4x32-10, addressed by position and token, and the same however it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.core.errors import InvalidRequest
from paceline.sampling.noise import (
    GUMBEL_DOMAIN,
    UNIFORM_DOMAIN,
    bits,
    gumbel,
    philox4x32,
    split_seed,
    uniform,
    uniforms,
)

SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**32 - 1)
FULL = 64

# Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = {
    "zeros": (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    "ones": (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def ids(*tokens: int) -> NDArray[np.int64]:
    return np.array(tokens, np.int64)


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(name: str) -> None:
    counter, key, expected = KNOWN_ANSWERS[name]
    c0, c1, c2, c3 = (np.array([word], np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox4x32((c0, c1, c2, c3), key)) == expected


def test_philox_treats_every_element_of_its_arrays_alone() -> None:
    cases = list(KNOWN_ANSWERS.values())[:1] * 2 + [((1, 2, 3, 4), (0, 0), None)]
    c0, c1, c2, c3 = (np.array([case[0][i] for case in cases], np.uint64) for i in range(4))
    words = philox4x32((c0, c1, c2, c3), (0, 0))
    assert [int(word[0]) for word in words] == [int(word[1]) for word in words] == list(cases[0][2])
    assert [int(word[2]) for word in words] != list(cases[0][2])


@given(seed=SEEDS, position=POSITIONS, token=st.integers(0, 2**31), domain=st.sampled_from([0, 1]))
def test_a_token_reads_its_half_of_the_block_that_its_address_names(
    seed: int, position: int, token: int, domain: int
) -> None:
    c0, c1, c2, c3 = (np.array([word], np.uint64) for word in (token // 2, position, 0, domain))
    words = [int(word[0]) for word in philox4x32((c0, c1, c2, c3), (seed % 2**32, seed // 2**32))]
    high, low = words[2:] if token % 2 else words[:2]
    assert int(bits(seed, position, ids(token), domain=domain)[0]) == high * 2**32 + low


@given(
    seed=SEEDS,
    position=POSITIONS,
    subset=st.lists(st.integers(0, FULL - 1), max_size=FULL),
)
def test_any_subset_of_tokens_gets_its_part_of_the_full_row(seed: int, position: int, subset: list[int]) -> None:
    row = gumbel(seed, position, np.arange(FULL))
    part = gumbel(seed, position, np.array(subset, np.int64))
    assert part.shape == (len(subset),)
    assert np.array_equal(part, row[np.array(subset, np.int64)])


@given(seed=SEEDS, position=POSITIONS, start=st.integers(0, FULL - 1), length=st.integers(1, FULL))
def test_any_run_of_tokens_gets_its_part_of_the_full_row(seed: int, position: int, start: int, length: int) -> None:
    row = gumbel(seed, position, np.arange(2 * FULL))
    run = np.arange(start, start + length)
    assert np.array_equal(gumbel(seed, position, run), row[run])


@pytest.mark.parametrize("subset", [(), (0,), (1,), (1, 2), (3, 4, 5), (5, 7, 9), (2, 1, 0), (4, 4), (0, 1, 3)])
def test_odd_starts_gaps_repeats_and_reversals_are_parts_of_the_full_row(subset: tuple[int, ...]) -> None:
    row = gumbel(11, 5, np.arange(10))
    assert gumbel(11, 5, ids(*subset)).tolist() == [float(row[token]) for token in subset]


@given(seed=SEEDS, position=POSITIONS)
def test_noise_is_the_same_whenever_it_is_asked_for(seed: int, position: int) -> None:
    first, tokens = gumbel(seed, position, np.arange(9)), np.arange(9)
    assert np.array_equal(first, gumbel(seed, position, tokens))
    assert np.array_equal(tokens, np.arange(9))
    assert uniform(seed, position, 3) == uniform(seed, position, 3)


def test_noise_never_changes_between_releases() -> None:
    assert [int(word) for word in bits(0, 0, ids(0, 1))] == [0x6627E8D5E169C58D, 0xBC57AC4C9B00DBD8]
    exponential = -np.log1p(-((0x6627E8D5E169C58D >> 11) + 0.5) / 2**53)
    assert gumbel(0, 0, ids(0))[0] == pytest.approx(-np.log(exponential), rel=1e-15)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("position", [0, 1, 2**31, 2**32 - 1])
def test_noise_is_finite_for_the_extreme_seeds_positions_and_tokens(seed: int, position: int) -> None:
    noise = gumbel(seed, position, ids(0, 1, 2**20, 2**31 - 1, 2**32 - 1))
    assert np.all(np.isfinite(noise))
    assert len(set(noise.tolist())) == len(noise)


def test_uniforms_never_reach_zero_or_one() -> None:
    extremes = uniforms(np.array([0, 2**11 - 1, 2**11, 2**63, 2**64 - 1], np.uint64))
    assert extremes.tolist() == [2.0**-54, 2.0**-54, 1.5 * 2.0**-53, 0.5, 1.0 - 2.0**-53]


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_gumbel_noise_is_finite_for_the_extreme_words(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.sampling.noise.bits", lambda *_: np.array([word], np.uint64))
    expected = {0: 54 * np.log(2), 2**64 - 1: -np.log(53 * np.log(2))}
    assert gumbel(0, 0, ids(0))[0] == pytest.approx(expected[word], rel=1e-12)


def test_neighbouring_words_of_the_upper_tail_give_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.arange(1000, dtype=np.uint64) << np.uint64(11)
    monkeypatch.setattr("paceline.sampling.noise.bits", lambda *_: words)
    assert np.all(np.diff(gumbel(0, 0, np.arange(1000))) < 0)


@pytest.mark.parametrize("seed", [-1, 2**64, 2**80, -(2**63)])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed must be in"):
        split_seed(seed)
    with pytest.raises(InvalidRequest, match="seed must be in"):
        gumbel(seed, 0, ids(0))
    with pytest.raises(InvalidRequest, match="seed must be in"):
        uniform(seed, 0, 0)


@given(seed=SEEDS)
def test_a_seed_is_split_without_loss(seed: int) -> None:
    low, high = split_seed(seed)
    assert max(low, high) < 2**32
    assert high * 2**32 + low == seed


@given(seed=SEEDS, position=POSITIONS, lane=st.integers(0, 100))
def test_gumbel_and_uniform_noise_never_share_bits(seed: int, position: int, lane: int) -> None:
    ours = bits(seed, position, np.arange(128), domain=GUMBEL_DOMAIN)
    theirs = bits(seed, position, np.arange(128), domain=UNIFORM_DOMAIN)
    assert not set(ours.tolist()) & set(theirs.tolist())
    assert uniform(seed, position, lane) == uniforms(theirs)[lane]


@given(
    seed=SEEDS,
    position=st.integers(0, 2**32 - 2),
    bit=st.integers(0, 63),
)
def test_another_seed_or_position_gives_other_noise(seed: int, position: int, bit: int) -> None:
    tokens = np.arange(4)
    here = gumbel(seed, position, tokens)
    assert not np.any(here == gumbel(seed, position + 1, tokens))
    assert not np.any(here == gumbel(seed ^ (1 << bit), position, tokens))


def test_no_two_of_many_addresses_share_their_bits() -> None:
    words = [
        bits(seed, position, np.arange(1000), domain=domain)
        for seed in (0, 1, 2**32)
        for position in range(50)
        for domain in (GUMBEL_DOMAIN, UNIFORM_DOMAIN)
    ]
    assert len(np.unique(np.concatenate(words))) == 3 * 50 * 2 * 1000
