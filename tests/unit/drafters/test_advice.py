"""A law that two parts of a mix make together, and who asks whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paceline.core.types import DraftJob, Guess, SamplingParams, SessionSpec, StopRules
from paceline.drafters.advice import BOLDNESS, Advice, Adviser, blend
from paceline.drafters.mix import MixDrafter
from paceline.drafters.ngram import NgramDrafter
from paceline.drafters.suffix import LAW_DOUBT, SuffixDrafter
from paceline.drafters.trimmed import TrimmedSampler
from paceline.sampling.noise import gumbel

TEXT = (1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3)


def spec(law: SamplingParams | None = None) -> SessionSpec:
    return SessionSpec("s", TEXT, 3, law or SamplingParams(temperature=0.8, seed=4), StopRules(100))


def test_a_blend_is_the_sum_of_both_laws() -> None:
    scores, tokens = np.log([0.5, 0.3, 0.2]) + 7.0, np.array([4, 6, 9])
    mixed, ids = blend(scores, tokens, Advice((6, 8), (0.25, 0.15)))
    assert ids.tolist() == [4, 6, 9, 8]
    assert np.exp(mixed).tolist() == pytest.approx([0.3, 0.43, 0.12, 0.15])


def test_votes_are_trusted_the_more_the_longer_they_agree() -> None:
    drafter = SuffixDrafter(1)
    drafter.open(spec())
    advice = drafter.advise(DraftJob("s", TEXT, len(TEXT), 4), TEXT)
    assert advice is not None
    trust = 1.0 - LAW_DOUBT / math.sqrt(3)
    assert dict(zip(advice.token_ids, advice.chances, strict=True)) == pytest.approx({4: trust / 2, 5: trust / 2})


def test_votes_on_what_is_guessed_go_on_from_the_guess_and_leave_it_out_of_the_text() -> None:
    drafter = SuffixDrafter(1)
    drafter.open(spec())
    job = DraftJob("s", TEXT, len(TEXT), 4)
    advice = drafter.advise(job, (*TEXT, 4))
    assert advice is not None
    assert advice.token_ids == (1,)
    assert drafter.advise(job, (*TEXT, 8)) is None


def test_a_stranger_to_the_adviser_gets_no_advice() -> None:
    assert SuffixDrafter(1).advise(DraftJob("s", TEXT, len(TEXT), 4), TEXT) is None


@pytest.mark.parametrize("position", range(20, 40))
def test_noise_decides_among_the_tokens_of_both(position: int) -> None:
    row, ids = torch.tensor([1.0, 0.5, 0.0]), np.array([2, 4, 6])
    advice = Advice((4, 7), (0.3, 0.4))
    sampler = TrimmedSampler(SamplingParams(temperature=0.8, seed=11), 2, ids, 10)
    own = 0.3 * torch.softmax(row / 0.8, 0).double().numpy()
    law = np.append(own, 0.4)
    law[1] += 0.3
    tokens = np.array([2, 4, 6, 7])
    order = np.argsort(-(BOLDNESS * np.log(law) + gumbel(11, position, tokens)))
    found = sampler.choices(row, (1,), position, 4, advice)
    assert [token for token, _ in found] == tokens[order].tolist()
    assert sum(math.exp(chance) for _, chance in found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("law", "takes"),
    [
        (SamplingParams(), False),
        (SamplingParams(temperature=0.8), True),
        (SamplingParams(temperature=0.8, presence_penalty=1.0), False),
    ],
)
def test_advice_is_taken_where_there_is_noise_and_nothing_else(law: SamplingParams, takes: bool) -> None:
    assert TrimmedSampler(law, 2, np.arange(5), 10).takes_advice is takes


class Listener(NgramDrafter):
    """Heeds whoever it listens to, where it says so."""

    is_heedful = True
    adviser: Adviser | None = None

    def listen_to(self, adviser: Adviser) -> None:
        self.adviser = adviser

    def heeds(self, session: str) -> bool:
        return self.is_heedful


class Counting(SuffixDrafter):
    """Knows how often it was asked."""

    num_asked = 0

    def extend(self, jobs: list[DraftJob]) -> list[Guess]:  # type: ignore[override]
        self.num_asked += len(jobs)
        return super().extend(jobs)


@pytest.mark.parametrize("is_heedful", [True, False])
@pytest.mark.parametrize("is_adviser_first", [True, False])
def test_an_adviser_is_asked_for_a_guess_only_where_nobody_heeds_it(is_heedful: bool, is_adviser_first: bool) -> None:
    adviser, listener = Counting(4), Listener(4)
    listener.is_heedful = is_heedful
    mix = MixDrafter([adviser, listener] if is_adviser_first else [listener, adviser])
    assert listener.adviser is adviser
    mix.open(spec())
    guess = mix.extend([DraftJob("s", TEXT, len(TEXT), 4)])[0]
    assert adviser.num_asked == (0 if is_heedful else 1)
    assert guess.token_ids
