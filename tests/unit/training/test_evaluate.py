"""Replaying recorded texts: the score is what real speculative decoding would give, and the drafter is told no more."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
import torch

from paceline.core.types import Branch, DrafterInfo, DraftJob, Guess, SessionSpec, Tokens
from paceline.training.evaluate import TOGETHER, Judged, Score, judge, replay
from paceline.training.generate import Sample, sampling
from tests.support.tiny_texts import make_sample

BLOCK = 4
Say = Callable[[Tokens, int], Tokens]
"""What to guess at a position of a text."""


class _Recorder:
    """Guesses as it is told to, and remembers what it was asked."""

    info = DrafterInfo("recorder")

    def __init__(self, samples: Sequence[Sample], say: Say) -> None:
        self._texts = {sample.tokens[: sample.prompt_length + 1]: sample.tokens for sample in samples}
        self._say = say
        self.specs: list[SessionSpec] = []
        self.open_now: dict[str, Tokens] = {}
        self.jobs: dict[str, list[DraftJob]] = {}
        self.most_together = 0

    def open(self, spec: SessionSpec) -> None:
        assert spec.session not in self.open_now
        self.specs.append(spec)
        self.open_now[spec.session] = self._texts[spec.context]
        self.jobs[spec.session] = []

    def close(self, session: str) -> None:
        del self.open_now[session]

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        self.most_together = max(self.most_together, len(jobs))
        for job in jobs:
            self.jobs[job.session].append(job)
        return [Guess(job.session, self._say(self.open_now[job.session], job.committed)) for job in jobs]


def everything(text: Tokens, position: int) -> Tokens:
    return text[position : position + BLOCK]


def nothing(_: Tokens, __: int) -> Tokens:
    return ()


def wrong(text: Tokens, position: int) -> Tokens:
    return tuple(token + 1 for token in text[position : position + BLOCK])


def first_two_of_three(text: Tokens, position: int) -> Tokens:
    return (*text[position : position + 2], *wrong(text, position + 2)[:1])


WHOLE = make_sample(6 + 1 + 6 * (BLOCK + 1), 6, 2)
"""Its output is its first token and then six whole steps."""


def test_a_drafter_that_knows_the_text_gets_a_block_and_one_per_step() -> None:
    score = replay(_Recorder([WHOLE], everything), [WHOLE], BLOCK)[0]
    assert score == Score(num_tokens=30, num_steps=6, num_drafted=24, num_accepted=24)
    assert score.tau == BLOCK + 1


@pytest.mark.parametrize(("say", "num_drafted"), [(nothing, 0), (wrong, 114)])
def test_a_drafter_that_knows_nothing_gets_one_per_step(say: Say, num_drafted: int) -> None:
    score = replay(_Recorder([WHOLE], say), [WHOLE], BLOCK)[0]
    assert score == Score(num_tokens=30, num_steps=30, num_drafted=num_drafted, num_accepted=0)
    assert score.tau == 1.0


def test_what_is_right_counts_up_to_the_first_mistake() -> None:
    score = replay(_Recorder([WHOLE], first_two_of_three), [WHOLE], BLOCK)[0]
    assert (score.num_tokens, score.num_steps, score.num_accepted) == (30, 10, 20)
    assert score.tau == 3.0


def test_guesses_beyond_the_end_of_a_text_count_as_drafted_but_not_as_right() -> None:
    sample = make_sample(6 + 1 + 2, 6, 2)
    score = replay(_Recorder([sample], lambda text, at: (*text[at:], 1, 2)), [sample], BLOCK)[0]
    assert score == Score(num_tokens=2, num_steps=1, num_drafted=4, num_accepted=2)


def test_committed_positions_and_frames_are_contiguous() -> None:
    for say in (everything, nothing, first_two_of_three):
        drafter = _Recorder([WHOLE], say)
        replay(drafter, [WHOLE], BLOCK)
        jobs, sent = drafter.jobs["0"], WHOLE.features_start
        assert jobs[0].committed == WHOLE.prompt_length + 1
        assert WHOLE.features is not None
        for job in jobs:
            assert job.context == WHOLE.tokens[: job.committed]
            assert job.max_tokens == BLOCK
            for frame in job.features:
                assert frame.start == sent
                rows = WHOLE.features[sent - WHOLE.features_start :][: frame.num_rows]
                assert frame.bf16 == b"".join(row.numpy().tobytes() for row in rows.view(torch.int16))
                sent += frame.num_rows
            assert sent == job.committed - 1
        steps = [after.committed - before.committed for before, after in itertools.pairwise(jobs)]
        assert all(1 <= step <= BLOCK + 1 for step in steps)


def test_a_text_without_hidden_states_has_no_frames() -> None:
    sample = Sample(WHOLE.tokens, WHOLE.prompt_length)
    drafter = _Recorder([sample], nothing)
    replay(drafter, [sample], BLOCK)
    assert all(job.features == () for job in drafter.jobs["0"])


def test_a_session_is_opened_with_the_law_of_the_text_and_its_first_token() -> None:
    sample = make_sample(20, 6, 2, seed=7, temperature=0.8)
    drafter = _Recorder([sample], nothing)
    replay(drafter, [sample], BLOCK)
    (spec,) = drafter.specs
    assert (spec.context, spec.prompt_length) == (sample.tokens[:7], 6)
    assert spec.sampling == sampling(0.8, 7)


def test_many_texts_run_together_and_have_a_score_each() -> None:
    samples = [make_sample(12 + seed % 9, 5, 0, seed=seed) for seed in range(TOGETHER + 5)]
    drafter = _Recorder(samples, nothing)
    scores = replay(drafter, samples, BLOCK)
    assert [one.num_steps for one in scores] == [len(one.tokens) - 6 for one in samples]
    assert drafter.most_together == TOGETHER
    assert drafter.open_now == {}


def test_a_text_of_one_output_token_has_no_steps() -> None:
    sample = make_sample(7, 6, 2)
    assert replay(_Recorder([sample], everything), [sample], BLOCK) == [Score()]
    assert Score().tau == 0.0


def test_scores_add_up() -> None:
    assert Score(5, 2, 4, 3) + Score(1, 1, 0, 0) == Score(6, 3, 4, 3)
    assert (Score(5, 2, 4, 3) + Score(1, 1, 0, 0)).tau == 2.0


def test_greedy_and_sampled_texts_are_judged_apart_and_what_can_not_be_replayed_is_left_out() -> None:
    greedy = make_sample(20, 6, seed=1)
    served = dataclasses.replace(make_sample(30, 6, seed=2, temperature=0.8), law=sampling(0.8, 2))
    foreign = make_sample(40, 6, seed=3, temperature=0.8)
    judged = judge(_Recorder([greedy, served, foreign], everything), [greedy, served, foreign], BLOCK)
    assert judged == Judged(
        replay(_Recorder([greedy], everything), [greedy], BLOCK)[0],
        replay(_Recorder([served], everything), [served], BLOCK)[0],
        num_greedy=1,
        num_sampled=1,
        num_left_out=1,
    )
    assert judged.total.num_tokens == 13 + 23


def test_figures_of_kinds_that_were_not_judged_are_none() -> None:
    assert Judged(Score(10, 4), num_greedy=1).figures("held_out_") == {
        "held_out_tau": 2.5,
        "held_out_tau_greedy": 2.5,
        "held_out_tau_sampled": None,
        "held_out_texts": {"greedy": 1, "sampled": 0, "left_out": 0},
    }


class _Doubting(_Recorder):
    """Guesses two tokens, the second one wrong, and has the right one among ``num_others`` second choices."""

    def __init__(self, samples: Sequence[Sample], num_others: int) -> None:
        super().__init__(samples, lambda text, position: text[position : position + 2])
        self._num_others = num_others

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        return [self._doubt(job, guess) for job, guess in zip(jobs, super().extend(jobs), strict=True)]

    def _doubt(self, job: DraftJob, guess: Guess) -> Guess:
        if len(guess.token_ids) < 2:
            return guess
        first, second = guess.token_ids
        others = [Branch(0, job.committed + 1, (second + i,), (0.3 - 0.1 * i,)) for i in range(self._num_others)]
        return Guess(job.session, (first, second + 9), (0.9, 0.5), tuple(others))


@pytest.mark.parametrize(
    ("block", "num_others", "score"),
    [
        (4, 0, Score(30, 15, 30, 15)),
        (4, 1, Score(30, 10, 30, 20)),
        (4, 2, Score(30, 10, 40, 20)),
        (2, 1, Score(30, 15, 30, 15)),
    ],
)
def test_a_second_choice_that_is_right_is_worth_a_token_where_the_block_has_room(
    block: int, num_others: int, score: Score
) -> None:
    assert replay(_Doubting([WHOLE], num_others), [WHOLE], block) == [score]
