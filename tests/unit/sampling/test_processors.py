"""Every processor against a reference written as loops, and every range that is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.core.errors import InvalidRequest
from paceline.core.types import SamplingParams
from paceline.sampling.accept import sample
from paceline.sampling.processors import RANGES, changes_logits, probabilities, process, validate

DROPPED = -math.inf
VOCAB = 12
DEFAULT = SamplingParams(temperature=1.0)
LOGITS = np.array([2.0, -1.0, 0.5, 3.0, -2.5, 0.0, 1.0, 1.0])

# Coarse values make ties, fine ones make sums that are not exact.
VALUES = st.one_of(st.integers(-4, 4).map(float), st.floats(-30.0, 30.0))
ROWS = st.lists(VALUES, min_size=VOCAB, max_size=VOCAB)
TOKENS = st.integers(0, VOCAB - 1)


# --- the reference ---------------------------------------------------------------------------------------------------


def reference_logits(
    logits: Sequence[float], params: SamplingParams, context: Sequence[int], prompt_length: int
) -> list[float]:
    """Penalties, bias, allowed and banned tokens, one token after the other."""
    out = []
    for token, value in enumerate(logits):
        if token in context:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        count = list(context[prompt_length:]).count(token)
        value -= params.frequency_penalty * count
        if count:
            value -= params.presence_penalty
        for biased, bias in params.logit_bias:
            if biased == token:
                value += bias
        if params.allowed_tokens and token not in params.allowed_tokens:
            value = DROPPED
        if token in params.banned_tokens:
            value = DROPPED
        out.append(value)
    return out


def share(scores: Sequence[float]) -> list[float]:
    """Softmax."""
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def likely_enough(scores: Sequence[float], min_p: float) -> set[int]:
    """Min-p, token by token; gives up where rounding decides."""
    weights = share(scores)
    bound = min_p * max(weights)
    assume(min_p in (0.0, 1.0) or all(abs(weight - bound) > 1e-9 * bound for weight in weights))
    return {token for token, weight in enumerate(weights) if weight >= bound and scores[token] > DROPPED}


def among_the_best(scores: Sequence[float], top_k: int) -> set[int]:
    """Top-k: fewer than k tokens are better."""
    return {
        token
        for token, score in enumerate(scores)
        if score > DROPPED and (not top_k or sum(other > score for other in scores) < top_k)
    }


def in_the_nucleus(scores: Sequence[float], top_p: float) -> set[int]:
    """Top-p: the mass of the tokens before, by a full sort, has not reached it yet; gives up where rounding decides."""
    weights, kept, before = share(scores), set(), []
    for token in sorted(range(len(scores)), key=lambda token: (-scores[token], token)):
        assume(abs(math.fsum(before) - top_p) > 1e-9)
        if math.fsum(before) < top_p and scores[token] > DROPPED:
            kept.add(token)
        before.append(weights[token])
    return kept


def only(scores: Sequence[float], kept: set[int]) -> list[float]:
    return [score if token in kept else DROPPED for token, score in enumerate(scores)]


def reference_truncated(scores: Sequence[float], params: SamplingParams) -> list[float]:
    scores = only(scores, likely_enough(scores, params.min_p))
    scores = only(scores, among_the_best(scores, params.top_k))
    return only(scores, in_the_nucleus(scores, params.top_p)) if params.top_p < 1.0 else scores


def survivors(scores: NDArray[np.float64]) -> set[int]:
    return set(np.flatnonzero(scores > -np.inf).tolist())


def below_top(scores: NDArray[np.float64]) -> list[float]:
    """What matters of scores: their distances; a constant cancels in every law."""
    return (scores - scores.max()).tolist()  # type: ignore[no-any-return]


def assert_equals_reference(
    logits: Sequence[float], params: SamplingParams, context: Sequence[int] = (), prompt_length: int = 0
) -> None:
    scores = process(np.array(logits), params, context, prompt_length)
    expected = np.array(reference_logits(logits, params, context, prompt_length))
    if params.temperature:  # truncation sees distances from the best score: only those can tie
        tempered = (expected - expected.max()) / params.temperature
        expected = np.array(reference_truncated(tempered.tolist(), params))
    assert survivors(scores) == survivors(expected)
    # The dropped ones are equal too: approx holds infinities to be equal to themselves.
    assert below_top(scores) == pytest.approx(below_top(expected), rel=1e-12, abs=1e-11)


# --- one by one ------------------------------------------------------------------------------------------------------


@given(
    logits=ROWS,
    context=st.lists(TOKENS, max_size=20),
    prompt_length=st.integers(0, 20),
    repetition=st.floats(0.01, 100.0),
    presence=st.floats(-2.0, 2.0),
    frequency=st.floats(-2.0, 2.0),
)
def test_penalties_equal_the_reference(
    logits: list[float],
    context: list[int],
    prompt_length: int,
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, temperature=0.0
    )
    assert_equals_reference(logits, params, context, min(prompt_length, len(context)))


def test_repetition_counts_the_prompt_but_frequency_and_presence_do_not() -> None:
    context = [0, 1, 3, 3, 4]
    repetition = process(LOGITS, SamplingParams(repetition_penalty=2.0), context, 2)
    assert repetition.tolist() == [1.0, -2.0, 0.5, 1.5, -5.0, 0.0, 1.0, 1.0]
    frequency = process(LOGITS, SamplingParams(frequency_penalty=0.5), context, 2)
    assert frequency.tolist() == [2.0, -1.0, 0.5, 2.0, -3.0, 0.0, 1.0, 1.0]
    presence = process(LOGITS, SamplingParams(presence_penalty=0.5), context, 2)
    assert presence.tolist() == [2.0, -1.0, 0.5, 2.5, -3.0, 0.0, 1.0, 1.0]


def test_repetition_comes_before_frequency_before_bias() -> None:
    params = SamplingParams(repetition_penalty=2.0, frequency_penalty=1.5, logit_bias=((0, -1.0),))
    assert process(np.array([2.0, 0.0]), params, [0], 0)[0] == 2.0 / 2.0 - 1.5 - 1.0


@given(
    logits=ROWS,
    bias=st.lists(st.tuples(TOKENS, st.floats(-100.0, 100.0)), max_size=6),
    allowed=st.sets(TOKENS),
    banned=st.sets(TOKENS, max_size=VOCAB - 1),
)
def test_bias_and_masks_equal_the_reference(
    logits: list[float], bias: list[tuple[int, float]], allowed: set[int], banned: set[int]
) -> None:
    assume(not allowed or allowed - banned)
    params = SamplingParams(logit_bias=tuple(bias), allowed_tokens=tuple(allowed), banned_tokens=tuple(banned))
    assert_equals_reference(logits, params)
    assert survivors(process(np.array(logits), params, (), 0)) == (allowed or set(range(VOCAB))) - banned


def test_a_bias_never_brings_back_a_banned_token() -> None:
    params = SamplingParams(logit_bias=((1, 100.0),), banned_tokens=(1,))
    assert process(LOGITS, params, (), 0)[1] == DROPPED


@given(logits=ROWS, temperature=st.floats(0.01, 10.0))
def test_temperature_divides(logits: list[float], temperature: float) -> None:
    assert_equals_reference(logits, replace(DEFAULT, temperature=temperature))


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-308, 1e-300, 1e-30])
@pytest.mark.parametrize("extra", [{}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 2}])
def test_the_lowest_temperatures_say_what_greedy_says(temperature: float, extra: dict[str, float]) -> None:
    logits = np.array([3.0, 20.0, 20.0001, -5.0])
    params = SamplingParams(temperature=temperature, **extra)  # type: ignore[arg-type]
    scores = process(logits, params, (), 0)
    assert [sample(scores, seed, 0, greedy=False) for seed in range(20)] == [2] * 20


def test_equal_logits_stay_equally_likely_at_the_lowest_temperatures() -> None:
    scores = process(np.array([20.0, 3.0, 20.0]), SamplingParams(temperature=1e-30), (), 0)
    assert {sample(scores, seed, 0, greedy=False) for seed in range(50)} == {0, 2}


@given(logits=ROWS, min_p=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0)))
def test_min_p_equals_the_reference(logits: list[float], min_p: float) -> None:
    assert_equals_reference(logits, replace(DEFAULT, min_p=min_p))


@given(logits=ROWS, top_k=st.integers(0, VOCAB + 3))
def test_top_k_equals_the_reference(logits: list[float], top_k: int) -> None:
    assert_equals_reference(logits, replace(DEFAULT, top_k=top_k))


@given(logits=ROWS, top_p=st.floats(1e-6, 1.0))
def test_top_p_equals_a_full_sort(logits: list[float], top_p: float) -> None:
    assert_equals_reference(logits, replace(DEFAULT, top_p=top_p))


@given(seed=st.integers(0, 2**32), top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0 - 1e-7]), spread=st.floats(0, 20))
def test_top_p_of_a_large_vocabulary_equals_a_full_sort(seed: int, top_p: float, spread: float) -> None:
    logits = spread * np.random.default_rng(seed).standard_normal(3000)
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights, kind="stable")
    mass = np.cumsum(weights[order]) / weights.sum()
    assume(np.abs(mass - top_p).min() > 1e-11)
    scores = process(logits, replace(DEFAULT, top_p=top_p), (), 0)
    assert survivors(scores) == set(order[: int((mass < top_p).sum()) + 1].tolist())


def test_the_lowest_ids_survive_top_p_among_many_that_tie() -> None:
    scores = process(np.tile([1.0, 0.0], 500), replace(DEFAULT, top_p=0.5), (), 0)
    assert survivors(scores) == set(range(0, 2 * len(survivors(scores)), 2))
    assert len(survivors(scores)) == 342  # 342 e > half of 500 e + 500 > 341 e


def test_top_p_tells_scores_apart_that_are_equally_likely_after_rounding() -> None:
    logits = np.array([0.0, 0.0, 1e-30])
    assert survivors(process(logits, replace(DEFAULT, top_p=0.3), (), 0)) == {2}
    assert survivors(process(logits, replace(DEFAULT, top_p=0.5), (), 0)) == {0, 2}


def test_ties_at_the_boundary_all_survive_top_k_and_the_lowest_ids_survive_top_p() -> None:
    logits = np.zeros(4)
    assert survivors(process(logits, replace(DEFAULT, top_k=2), (), 0)) == {0, 1, 2, 3}
    assert survivors(process(logits, replace(DEFAULT, top_p=0.5), (), 0)) == {0, 1}
    assert survivors(process(logits, replace(DEFAULT, top_p=0.51), (), 0)) == {0, 1, 2}
    assert survivors(process(logits, replace(DEFAULT, top_p=5e-324), (), 0)) == {0}
    assert survivors(process(logits, replace(DEFAULT, min_p=1.0), (), 0)) == {0, 1, 2, 3}


# --- together --------------------------------------------------------------------------------------------------------

PARAMS = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.floats(0.05, 10.0)),
    top_k=st.integers(0, VOCAB + 1),
    top_p=st.one_of(st.just(1.0), st.floats(1e-3, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2.0)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2.0, 2.0)),
    logit_bias=st.lists(st.tuples(TOKENS, st.floats(-100.0, 100.0)), max_size=3).map(tuple),
    allowed_tokens=st.sets(TOKENS).map(tuple),
    banned_tokens=st.sets(TOKENS, max_size=VOCAB - 1).map(tuple),
    seed=st.integers(0, 2**64 - 1),
)


def is_valid(params: SamplingParams) -> bool:
    return not params.allowed_tokens or bool(set(params.allowed_tokens) - set(params.banned_tokens))


@given(logits=ROWS, params=PARAMS.filter(is_valid), context=st.lists(TOKENS, max_size=12), cut=st.integers(0, 12))
def test_all_processors_together_equal_the_reference(
    logits: list[float], params: SamplingParams, context: list[int], cut: int
) -> None:
    # Ties and near-ties at top-k are the reference's only where rounding can't make or break them.
    before = reference_logits(logits, params, context, min(cut, len(context)))
    gaps = np.diff(np.unique(np.array(before)[np.array(before) > DROPPED]))
    assume(not gaps.size or gaps.min() > 1e-6)
    assert_equals_reference(logits, params, context, min(cut, len(context)))


@given(logits=ROWS, params=PARAMS.filter(is_valid), context=st.lists(TOKENS, max_size=12), cut=st.integers(0, 12))
def test_valid_parameters_always_leave_a_token_and_never_change_the_input(
    logits: list[float], params: SamplingParams, context: list[int], cut: int
) -> None:
    validate(params, VOCAB)
    row, history = np.array(logits), list(context)
    scores = process(row, params, history, cut)
    assert row.tolist() == logits
    assert history == context
    assert np.isfinite(scores.max())
    assert not np.isnan(scores).any()
    likely = probabilities(scores)
    assert likely.sum() == pytest.approx(1.0, rel=1e-12)
    token = sample(scores, params.seed, len(context), greedy=params.temperature == 0.0)
    assert likely[token] > 0.0 or scores[token] - scores.max() < -700.0
    assert token not in params.banned_tokens
    assert not params.allowed_tokens or token in params.allowed_tokens


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_scores_are_doubles_whatever_the_logits_are(kind: type[np.floating]) -> None:
    logits = LOGITS.astype(kind)
    logits.setflags(write=False)
    for temperature in (0.0, 0.5):
        scores = process(logits, replace(DEFAULT, temperature=temperature), (), 0)
        assert scores.dtype == np.float64
        assert not np.shares_memory(scores, logits)


@given(logits=ROWS, top_k=st.integers(1, 3), top_p=st.floats(1e-3, 0.5), min_p=st.floats(0.5, 1.0))
def test_truncation_does_nothing_to_greedy_scores(logits: list[float], top_k: int, top_p: float, min_p: float) -> None:
    params = SamplingParams(temperature=0.0, top_k=top_k, top_p=top_p, min_p=min_p)
    assert process(np.array(logits), params, (), 0).tolist() == logits


@pytest.mark.parametrize("tied", [(2, 5), (0, 7), (1, 2, 3)])
def test_greedy_ties_go_to_the_lowest_id_after_processing(tied: tuple[int, ...]) -> None:
    logits = np.zeros(8)
    logits[list(tied)] = 4.0
    params = SamplingParams()
    assert sample(process(logits, params, (), 0), 9, 3, greedy=True) == tied[0]
    unseen = replace(params, presence_penalty=1.0)
    assert sample(process(logits, unseen, (tied[0],), 0), 9, 3, greedy=True) == tied[1]


@given(logits=ROWS)
def test_probabilities_are_a_softmax(logits: list[float]) -> None:
    assert probabilities(np.array(logits)).tolist() == pytest.approx(share(logits), rel=1e-12)


def test_dropped_tokens_have_no_probability() -> None:
    assert probabilities(np.array([DROPPED, 0.0, DROPPED, 0.0])).tolist() == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, False),
        ({"temperature": 0.7, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "seed": 3}, False),
        ({"repetition_penalty": 1.1}, True),
        ({"presence_penalty": -0.1}, True),
        ({"frequency_penalty": 0.1}, True),
        ({"logit_bias": ((0, 0.0),)}, True),
        ({"allowed_tokens": (1,)}, True),
        ({"banned_tokens": (1,)}, True),
    ],
)
def test_only_penalties_biases_and_masks_change_logits(change: dict[str, object], changes: bool) -> None:
    assert changes_logits(SamplingParams(**change)) is changes  # type: ignore[arg-type]


# --- validate --------------------------------------------------------------------------------------------------------

OUT_OF_RANGE = {
    "temperature": (-1e-9, 10.0001, math.inf, math.nan),
    "top_k": (-1, -(2**31), math.nan),
    "top_p": (0.0, -0.5, 1.0000001, math.inf, math.nan),
    "min_p": (-1e-9, 1.0000001, math.nan),
    "repetition_penalty": (0.0, 0.0099, 100.1, -1.0, math.inf, math.nan),
    "presence_penalty": (-2.0001, 2.0001, math.nan),
    "frequency_penalty": (-2.0001, 2.0001, math.nan),
    "seed": (-1, 2**64),
    "logit_bias": (((0, 100.1),), ((0, -100.1),), ((0, math.nan),), ((VOCAB, 1.0),), ((-1, 1.0),)),
    "allowed_tokens": ((VOCAB,), (-1,), (0, 1, VOCAB)),
    "banned_tokens": ((VOCAB,), (-1,), tuple(range(VOCAB))),
}
ON_THE_WIRE = {"allowed_tokens": "allowed_token_ids", "banned_tokens": "banned_token_ids"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in OUT_OF_RANGE for value in OUT_OF_RANGE[name]])
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"\b{ON_THE_WIRE.get(name, name)}\b"):
        validate(replace(DEFAULT, **{name: value}), VOCAB)  # type: ignore[arg-type]


def test_every_field_but_the_sampler_has_a_range() -> None:
    assert {field.name for field in fields(SamplingParams)} == {*OUT_OF_RANGE, "sampler"}
    assert set(RANGES) < set(OUT_OF_RANGE)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_of_every_range_are_allowed_and_leave_a_token(name: str, end: int) -> None:
    bound = RANGES[name][end]
    params = replace(DEFAULT, **{name: VOCAB + 1 if bound == math.inf else bound})  # type: ignore[arg-type]
    validate(params, len(LOGITS))
    assert survivors(process(LOGITS, params, [0, 3], 1))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2**64 - 1},
        {"logit_bias": ((0, 100.0), (VOCAB - 1, -100.0))},
        {"allowed_tokens": (0, VOCAB - 1)},
        {"banned_tokens": tuple(range(1, VOCAB))},
        {"banned_tokens": (0,) * 50},
        {"allowed_tokens": (3, 4), "banned_tokens": (3,)},
    ],
)
def test_extreme_but_possible_requests_are_allowed(change: dict[str, object]) -> None:
    params = replace(DEFAULT, **change)  # type: ignore[arg-type]
    validate(params, VOCAB)
    assert survivors(process(np.zeros(VOCAB), params, (), 0))


def test_banning_all_that_is_allowed_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="banned_token_ids leaves no token"):
        validate(replace(DEFAULT, allowed_tokens=(2, 3), banned_tokens=(3, 2, 1)), VOCAB)


def test_the_message_says_what_would_be_right() -> None:
    with pytest.raises(InvalidRequest, match=r"top_p must be in \(0, 1\], got 0\.0\."):
        validate(replace(DEFAULT, top_p=0.0), VOCAB)
    with pytest.raises(InvalidRequest, match=r"temperature must be in \[0, 10\], got 11\.0\."):
        validate(replace(DEFAULT, temperature=11.0), VOCAB)
