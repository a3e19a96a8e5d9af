"""The multi-token drafter guesses what its network in training says of the same rows, however they came to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    DraftJob,
    FeatureFrame,
    Guess,
    Needs,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tokens,
)
from paceline.drafters.learned import MIN_BRANCH, MIN_REACH
from paceline.drafters.mtp import MtpDrafter, network_from
from paceline.drafters.mtp_network import causal_mask
from paceline.models.sampling import RowSampler
from paceline.sampling.accept import sample
from paceline.sampling.processors import process
from tests.support.tiny_drafters import BLOCK, CURVES, HIDDEN, SHAPE, TAPS, make_trained, token_ids
from tests.support.tiny_models import VOCAB, random_tokens

TRAINED = make_trained()
NETWORK = network_from(TRAINED)
IDS = token_ids()
OWN = {int(token): own for own, token in enumerate(IDS)}
TEXT = tuple(random_tokens(60, seed=7))
FEATURES = torch.randn(60, SHAPE.features, generator=torch.Generator().manual_seed(8)).bfloat16()
"""What the target thought at each position of ``TEXT``."""
SURE = ((0.0, 9.0),)
"""So sure of everything that no guess ends early."""


def make_drafter(calibration: tuple[tuple[float, float], ...] = SURE, **settings: object) -> MtpDrafter:
    made = DrafterSettings(drafter="mtp", dtype="float32", quantize="", **settings)  # type: ignore[arg-type]
    trained = dataclasses.replace(TRAINED, about=dataclasses.replace(TRAINED.about, calibration=calibration))
    return MtpDrafter(trained, made)


def spec(session: str, context: Tokens, sampling: SamplingParams | None = None, prompt_length: int = 4) -> SessionSpec:
    return SessionSpec(session, context, prompt_length, sampling or SamplingParams(), StopRules(100))


def frame(start: int, end: int) -> FeatureFrame:
    return FeatureFrame(start, end - start, FEATURES[start:end].view(torch.int16).numpy().tobytes())


def ask(
    drafter: MtpDrafter,
    committed: int,
    frames: Sequence[tuple[int, int]] = (),
    *,
    path: Tokens = (),
    most: int = BLOCK,
    session: str = "s",
) -> Guess:
    """Of ``TEXT[:committed]`` and then ``path``, with the hidden states of the positions [start, end) of ``frames``."""
    context = TEXT[:committed] + path
    return drafter.extend([DraftJob(session, context, committed, most, tuple(frame(*one) for one in frames))])[0]


def opened(calibration: tuple[tuple[float, float], ...] = SURE, sampling: SamplingParams | None = None) -> MtpDrafter:
    drafter = make_drafter(calibration)
    drafter.open(spec("s", TEXT[:4], sampling))
    return drafter


def own(tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([OWN.get(token, len(IDS)) for token in tokens])


def logits_after(context: Tokens, committed: int, seen: Sequence[int], first: int) -> torch.Tensor:
    """[vocab] of the network in training, over the rows from ``first`` on, ``seen`` those with hidden states."""
    positions = torch.arange(first, committed - 1)
    has_features = torch.isin(positions, torch.tensor(list(seen), dtype=torch.long))
    with torch.inference_mode():
        x = NETWORK.rows(FEATURES[positions], has_features, own(context[first + 1 : committed]))
        mask = causal_mask(torch.ones(1, len(positions), dtype=torch.bool), SHAPE.window)
        state = NETWORK.states(x[None], positions[None], mask)[0, -1]
        for token in context[committed:]:
            state = NETWORK.advance(state, own([token])[0])
        return NETWORK.logits(state)


def chain(
    committed: int, seen: Sequence[int], *, path: Tokens = (), most: int = BLOCK, first: int | None = None
) -> tuple[Tokens, list[float]]:
    """Likeliest tokens one after another, and the logarithms of their chances."""
    context, logprobs = TEXT[:committed] + path, []
    start = max(0, committed - 1 - SHAPE.window) if first is None else first
    while len(context) - committed < min(BLOCK, len(path) + most):
        best = logits_after(context, committed, seen, start).log_softmax(-1).max(-1)
        context += (int(IDS[best.indices]),)
        logprobs.append(float(best.values))
    return context[committed + len(path) :], logprobs


def test_a_whole_history_at_once() -> None:
    for committed in (9, 12, 13, 14, 30):
        assert ask(opened(), committed, [(0, committed - 1)]).token_ids == chain(committed, range(committed))[0]


def test_guesses_depend_on_the_text_and_on_the_hidden_states() -> None:
    """Else the other tests would say nothing."""
    guesses = {ask(opened(), committed, [(0, committed - 1)]).token_ids for committed in range(9, 30)}
    assert len(guesses) > 15
    assert ask(opened(), 20).token_ids != ask(opened(), 20, [(0, 19)]).token_ids


def test_hidden_states_in_pieces() -> None:
    drafter = opened()
    for committed, frames in ((6, [(0, 5)]), (9, [(5, 7), (7, 8)]), (10, [(8, 9)]), (25, [(9, 15), (15, 24)])):
        assert ask(drafter, committed, frames).token_ids == chain(committed, range(committed))[0]


def test_a_text_without_hidden_states() -> None:
    drafter = opened()
    for committed in (5, 6, 11, 12, 30, 31):
        assert ask(drafter, committed).token_ids == chain(committed, ())[0]


def test_hidden_states_of_the_newest_positions_only() -> None:
    assert ask(opened(), 20, [(15, 19)]).token_ids == chain(20, range(15, 19))[0]


def test_hidden_states_that_miss_the_newest_positions() -> None:
    assert ask(opened(), 20, [(8, 14)]).token_ids == chain(20, range(8, 14))[0]


def test_hidden_states_with_a_gap() -> None:
    assert ask(opened(), 20, [(8, 12), (14, 17)]).token_ids == chain(20, [*range(8, 12), *range(14, 17)])[0]


def test_hidden_states_that_come_late_replace_what_was_made_without() -> None:
    drafter = opened()
    assert ask(drafter, 14).token_ids == chain(14, ())[0]
    assert ask(drafter, 16, [(8, 15)]).token_ids == chain(16, range(8, 15))[0]


def test_hidden_states_that_come_twice_or_overlap() -> None:
    drafter = opened()
    for frames in ([(0, 13)], [(0, 13)], [(9, 13)], [(5, 10), (8, 13)]):
        assert ask(drafter, 14, frames).token_ids == chain(14, range(14))[0]
    assert ask(drafter, 17, [(11, 16)]).token_ids == chain(17, range(17))[0]


def test_hidden_states_of_positions_that_no_row_sees_any_more() -> None:
    drafter = opened()
    ask(drafter, 30, [(15, 29)])
    assert ask(drafter, 31, [(0, 10)]).token_ids == chain(31, ())[0]


def test_hidden_states_beyond_the_committed_positions_wait_for_nothing() -> None:
    """A row needs the token after it."""
    assert ask(opened(), 20, [(10, 30)]).token_ids == chain(20, range(10, 19))[0]
    for start in (19, 20, 25):
        assert ask(opened(), 20, [(start, 30)]).token_ids == chain(20, ())[0]


def test_commits_of_several_tokens_and_a_pause_longer_than_the_window() -> None:
    drafter = opened()
    for committed in (7, 12, 13, 40, 58):
        assert ask(drafter, committed).token_ids == chain(committed, ())[0]


def test_a_guess_goes_on_from_what_was_guessed_before() -> None:
    drafter = opened()
    whole = ask(drafter, 20, [(0, 19)]).token_ids
    assert len(whole) == BLOCK
    for length in range(BLOCK):
        assert ask(drafter, 20, path=whole[:length]).token_ids == whole[length:]
        other = TEXT[30 : 30 + length]
        assert ask(drafter, 20, path=other).token_ids == chain(20, range(20), path=other)[0]


def test_nothing_is_guessed_beyond_a_block() -> None:
    drafter = opened()
    for length in (BLOCK, BLOCK + 1, 20):
        assert ask(drafter, 20, path=TEXT[20 : 20 + length]) == Guess("s", (), ())


def test_guesses_that_were_rejected_leave_no_trace() -> None:
    drafter = opened()
    guessed = ask(drafter, 20, [(0, 19)]).token_ids
    ask(drafter, 20, path=guessed[:3])
    ask(drafter, 20, path=(5, 6))
    assert guessed[0] != TEXT[20]
    assert ask(drafter, 21, [(19, 20)]).token_ids == chain(21, range(21))[0]


def test_the_first_token_alone_says_nothing() -> None:
    drafter = opened()
    assert ask(drafter, 1) == Guess("s", (), ())
    assert ask(drafter, 2, [(0, 1)]).token_ids == chain(2, range(1))[0]


def test_tokens_that_the_drafter_does_not_know_are_one_and_the_same_to_it() -> None:
    unknown = [token for token in range(VOCAB) if token not in OWN]
    drafter, guesses = make_drafter(), []
    for index, (a, b) in enumerate(zip(unknown, reversed(unknown), strict=True)):
        context = (*TEXT[:5], a, *TEXT[6:9], b)
        drafter.open(spec(f"{index}", context))
        guesses.append(drafter.extend([DraftJob(f"{index}", context, 9, 4)])[0].token_ids)
    assert len(set(guesses)) == 1
    assert len(guesses[0]) == 4


def test_ids_beyond_the_targets_vocabulary_are_unknown_and_none_is_guessed_after_one() -> None:
    drafter = opened()
    unknown = next(token for token in range(VOCAB) if token not in OWN)
    for strange in (VOCAB, VOCAB + 1000):
        guesses = []
        for token in (strange, unknown):
            context = (*TEXT[:5], token, *TEXT[6:9], token, 5)
            drafter.close("s")
            drafter.open(spec("s", context))
            guesses.append(drafter.extend([DraftJob("s", context, 9, 3)])[0])
        assert guesses[0] == guesses[1]
        assert len(guesses[0].token_ids) == 3
        assert drafter.extend([DraftJob("s", (*TEXT[:8], strange), 8, 3)])[0] == Guess("s", (), ())


def test_only_tokens_that_the_drafter_knows_are_guessed() -> None:
    drafter = opened()
    said = {token for committed in range(5, 50) for token in ask(drafter, committed).token_ids}
    assert len(said) > 20
    assert said <= set(OWN)


def test_sessions_drafted_together_say_what_each_says_alone() -> None:
    asked = {"a": (9, [(0, 8)]), "b": (30, []), "c": (1, []), "d": (21, [(10, 14), (16, 20)]), "e": (14, [(13, 14)])}
    together, alone = make_drafter(), {}
    for session, (committed, frames) in asked.items():
        together.open(spec(session, TEXT[:4]))
        drafter = make_drafter()
        drafter.open(spec(session, TEXT[:4]))
        alone[session] = ask(drafter, committed, frames, session=session)
    jobs = [
        DraftJob(session, TEXT[:committed], committed, BLOCK, tuple(frame(*one) for one in frames))
        for session, (committed, frames) in asked.items()
    ]
    found = together.extend(jobs)
    assert [one.token_ids for one in found] == [alone[session].token_ids for session in asked]
    for one in found:
        assert one.confidences == pytest.approx(alone[one.session].confidences, abs=1e-5)


def test_confidences_are_calibrated_chances() -> None:
    guess = ask(opened(((1.1, 4.0), (0.9, 5.0), (0.8, 6.0))), 20, [(0, 19)])
    _, logprobs = chain(20, range(20))
    curves = [(1.1, 4.0), (0.9, 5.0), (0.8, 6.0), (0.8, 6.0), (0.8, 6.0)]
    expected = []
    for logprob, (slope, offset) in zip(logprobs, curves, strict=True):
        chance = math.exp(logprob)
        expected.append(1 / (1 + math.exp(-(slope * math.log(chance / (1 - chance)) + offset))))
    assert guess.confidences == pytest.approx(expected, rel=1e-3)


def test_at_a_temperature_other_curves_count() -> None:
    about = dataclasses.replace(TRAINED.about, calibration=((0.0, 1.0),), warm_calibration=((0.0, 2.0), (0.0, 3.0)))
    drafter = MtpDrafter(
        dataclasses.replace(TRAINED, about=about), DrafterSettings(drafter="mtp", dtype="float32", quantize="")
    )
    for name, law in (("greedy", SamplingParams()), ("warm", SamplingParams(temperature=0.8))):
        drafter.open(spec(name, TEXT[:20], law))
    greedy, warm = drafter.extend([DraftJob(name, TEXT[:20], 20, BLOCK) for name in ("greedy", "warm")])
    one, two, three = (1 / (1 + math.exp(-offset)) for offset in (1, 2, 3))
    assert greedy.confidences == pytest.approx([one] * BLOCK)
    assert warm.confidences == pytest.approx([two] + [three] * (BLOCK - 1))


def test_a_later_place_has_its_own_curve_when_a_guess_goes_on() -> None:
    drafter = opened(((0.0, 1.0), (0.0, 2.0), (0.0, 3.0)))
    chances = [1 / (1 + math.exp(-offset)) for offset in (1, 2, 3, 3, 3)]
    assert ask(drafter, 20).confidences == pytest.approx(chances)
    for length in range(BLOCK):
        assert ask(drafter, 20, path=TEXT[20 : 20 + length]).confidences == pytest.approx(chances[length:])


@pytest.mark.parametrize("curve", [(1e6, 0.0), (-1e6, 0.0), (0.0, 1e9), (0.0, -1e9)])
def test_nothing_is_certain(curve: tuple[float, float]) -> None:
    found = [one for committed in range(5, 40) for one in ask(opened((curve,)), committed).confidences]
    assert len(found) >= 35
    assert all(0.0 < one < 1.0 for one in found)


def test_a_guess_ends_where_it_is_unlikely_to_be_right_altogether() -> None:
    lengths = set()
    for committed in range(5, 50):
        guess = ask(opened(CURVES), committed)
        reach = np.cumprod((1.0, *guess.confidences))
        assert min(reach[:-1]) >= MIN_REACH
        assert reach[-1] < MIN_REACH or len(guess.token_ids) == BLOCK
        lengths.add(len(guess.token_ids))
    assert len(lengths) > 1


def test_at_most_as_many_tokens_as_asked_for() -> None:
    drafter = opened()
    whole = ask(drafter, 20).token_ids
    assert [ask(drafter, 20, most=most).token_ids for most in range(9)] == [whole[:most] for most in range(9)]


COUPLED = [
    SamplingParams(temperature=0.8, seed=3),
    SamplingParams(temperature=1.5, top_k=5, seed=2**63 + 9),
    SamplingParams(temperature=1.0, top_p=0.7, min_p=0.01, seed=5),
    SamplingParams(temperature=0.7, repetition_penalty=1.3, frequency_penalty=0.5, seed=6),
    SamplingParams(repetition_penalty=1.5, presence_penalty=1.0),
    SamplingParams(logit_bias=((4, 9.0), (6, 20.0), (7, -30.0))),
    SamplingParams(temperature=1.2, allowed_tokens=tuple(range(40)), banned_tokens=(4, 5, 7), seed=1),
]


@pytest.mark.parametrize("sampling", COUPLED)
def test_tokens_are_drawn_with_the_targets_law_and_noise(sampling: SamplingParams) -> None:
    """As ``sampling.accept`` draws them, from scores that are -inf for all tokens that the drafter does not know."""
    drafter = opened(SURE, sampling)
    for committed in (9, 15, 28):
        context = TEXT[:committed]
        while len(context) < committed + BLOCK:
            row = np.full(VOCAB, -np.inf)
            row[IDS.numpy()] = logits_after(context, committed, (), max(0, committed - 1 - SHAPE.window)).numpy()
            scores = process(row, sampling, context, 4)
            context += (sample(scores, sampling.seed, len(context), greedy=sampling.temperature == 0.0),)
        assert ask(drafter, committed).token_ids == context[committed:]


def test_a_drafter_whose_network_is_the_target_is_always_right_at_a_temperature() -> None:
    """The noise is keyed by position: it does not matter where a guess begins."""
    sampling = SamplingParams(temperature=1.0, seed=4)
    drafter = opened(SURE, sampling)
    whole = ask(drafter, 20).token_ids
    sampler, context = RowSampler(sampling, 4), TEXT[:20]
    for token in whole:
        row = torch.full((VOCAB,), -torch.inf)
        row[IDS] = logits_after(context, 20, (), 20 - 1 - SHAPE.window)
        assert sampler.next_token(row, context, len(context)) == token
        assert ask(drafter, 20, path=context[20:]).token_ids[0] == token
        context += (token,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_guessed_where_only_unknown_tokens_are_allowed(temperature: float) -> None:
    unknown = tuple(token for token in range(VOCAB) if token not in OWN)
    for sampling in (
        SamplingParams(temperature=temperature, allowed_tokens=unknown),
        SamplingParams(temperature=temperature, banned_tokens=tuple(OWN)),
        SamplingParams(temperature=temperature, allowed_tokens=(*unknown, 4), banned_tokens=(4,)),
    ):
        drafter = opened(SURE, sampling)
        drafter.open(spec("other", TEXT[:4]))
        jobs = [DraftJob(session, TEXT[:20], 20, BLOCK) for session in ("s", "other")]
        assert drafter.extend(jobs)[0] == Guess("s", (), ())
        assert drafter.extend(jobs)[1].token_ids == chain(20, ())[0]


def test_parameters_about_ids_that_do_not_exist_are_refused_and_take_no_seat() -> None:
    drafter = make_drafter(max_sessions=1)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="logit_bias"):
            drafter.open(spec("s", TEXT, SamplingParams(logit_bias=((VOCAB, 1.0),))))
    drafter.open(spec("s", TEXT))


def test_it_says_what_it_is_and_what_it_needs() -> None:
    info = make_drafter(max_sessions=3).info
    assert (info.name, info.tokenizer_digest, info.vocab_size) == ("mtp tiny", "tokenizer digest", VOCAB)
    assert info.needs == Needs(
        hidden_states=TAPS,
        history=8,
        same_tokenizer=True,
        hidden_size=HIDDEN,
        is_optional=True,
        target_digest="model digest",
    )
    assert (info.max_sessions, info.max_window) == (3, BLOCK)


def test_blocks_can_be_shortened_but_not_beyond_what_was_trained() -> None:
    drafter = make_drafter(block=2)
    drafter.open(spec("s", TEXT[:4]))
    assert drafter.info.max_window == 2
    assert ask(drafter, 20).token_ids == chain(20, (), most=2)[0]
    assert ask(drafter, 20, path=TEXT[20:22]).token_ids == ()
    with pytest.raises(InvalidRequest, match=f"blocks of {BLOCK} tokens, not {BLOCK + 1}; lower it"):
        make_drafter(block=BLOCK + 1)


def test_weights_take_what_the_network_takes_and_tables_that_are_kept_twice() -> None:
    trained = make_trained()
    stored = sum(tensor.nbytes for tensor in trained.weights.values())
    made = MtpDrafter(trained, DrafterSettings(drafter="mtp", dtype="float32", quantize=""))
    assert stored < made.info.weights_bytes < 2 * stored


# --- second choices --------------------------------------------------------------------------------------------------
TORN = ((0.3, -1.0),)
"""Sure of nothing, so that something is left for second choices."""


@pytest.mark.parametrize("fan_out", [0, 1, 2])
def test_second_choices_are_branches_of_one_token(fan_out: int) -> None:
    drafter = make_drafter(TORN)
    drafter.open(dataclasses.replace(spec("s", TEXT[:20]), fan_out=fan_out))
    guess = ask(drafter, 20, [(0, 19)], most=2)
    best = [IDS[logits_after(TEXT[:20], 20, range(20), 0).topk(3).indices].tolist()]
    best.append(IDS[logits_after((*TEXT[:20], best[0][0]), 20, range(20), 0).topk(3).indices].tolist())
    assert guess.token_ids == tuple(first for first, *_ in best)[: len(guess.token_ids)]
    wanted = [(20 + i, (token,)) for i in range(len(guess.token_ids)) for token in best[i][1 : 1 + fan_out]]
    found = [(one.position, one.token_ids) for one in guess.branches]
    assert set(found) <= set(wanted)
    assert [one for one in wanted if one[0] == 20] == [one for one in found if one[0] == 20]


def test_the_likeliest_second_choice_comes_first_and_a_place_s_chances_sum_to_one_at_most() -> None:
    drafter = make_drafter(TORN)
    drafter.open(spec("s", TEXT[:20]))
    guess = ask(drafter, 20, [(0, 19)])
    reach = np.cumprod((1.0, *guess.confidences))
    chances = [reach[one.position - 20] * one.confidences[0] for one in guess.branches]
    assert chances == sorted(chances, reverse=True)
    assert min(chances) >= MIN_BRANCH - 1e-9
    at_20 = [guess.confidences[0], *(one.confidences[0] for one in guess.branches if one.position == 20)]
    assert len(at_20) == 4
    assert sum(at_20) <= 1.0
