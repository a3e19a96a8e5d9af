"""Texts for training are those that the service would give, bit for bit, with what the target thought of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from paceline.core.types import Tokens
from paceline.models.runner import Feed, ModelRunner
from paceline.models.sampling import RowSampler
from paceline.training.generate import NUM_CANDIDATES, Generator, Job, Sample, sampling
from tests.support.tiny_models import make_runner, write_model

VOCAB = 300
TAPS = (1, 2, -1)
HIDDEN = 64
SLOTS = 3


def tokens(count: int, seed: int) -> Tokens:
    return tuple(torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


JOBS = [
    Job(tokens(length, length), temperature, most, seed=seed)
    for seed, (length, temperature, most) in enumerate(
        [(1, 0.0, 12), (30, 0.0, 20), (5, 0.9, 16), (70, 2.0, 9), (12, 0.0, 1), (3, 1.2, 24), (45, 0.0, 7)]
    )
]
"""More than there are slots, of all lengths."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("target"), vocab_size=VOCAB, num_hidden_layers=3)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def runner(request: pytest.FixtureRequest, directory: Path) -> ModelRunner:
    return make_runner(directory, dtype=request.param, max_sessions=SLOTS)


@pytest.fixture(scope="module")
def samples(runner: ModelRunner) -> list[Sample]:
    return generate(runner, JOBS)


def generate(
    runner: ModelRunner,
    jobs: Sequence[Job],
    *,
    taps: tuple[int, ...] = TAPS,
    history: int = 8,
    num_top: int = 5,
    stop_token_ids: Sequence[int] = (VOCAB,),
) -> list[Sample]:
    """In the order of the jobs."""
    generator = Generator(runner, taps=taps, history=history, num_top=num_top, stop_token_ids=stop_token_ids)
    made = dict(generator.run(enumerate(jobs)))
    return [made[index] for index in range(len(jobs))]


def plain(runner: ModelRunner, job: Job) -> tuple[Tokens, torch.Tensor]:
    """The text that decoding token by token gives, and the logits of its output."""
    sampler, text, fed, rows = RowSampler(sampling(job.temperature, job.seed), len(job.prompt)), job.prompt, 0, []
    runner.open("plain")
    while len(text) < len(job.prompt) + job.max_tokens:
        rows.append(runner.logits([Feed("plain", fed, text[fed:], 1)])[0][0])
        fed = len(text)
        text += (sampler.next_token(rows[-1], text, len(text)),)
    runner.close("plain")
    return text, torch.stack(rows)


def test_texts_are_those_of_plain_decoding_greedy_and_sampled(runner: ModelRunner, samples: list[Sample]) -> None:
    assert [one.tokens for one in samples] == [plain(runner, job)[0] for job in JOBS]
    assert [one.prompt_length for one in samples] == [len(job.prompt) for job in JOBS]
    assert [(one.temperature, one.seed) for one in samples] == [(job.temperature, job.seed) for job in JOBS]


def test_the_law_of_a_sample_is_part_of_it(samples: list[Sample]) -> None:
    assert [one.sampling for one in samples] == [sampling(job.temperature, job.seed) for job in JOBS]
    assert (samples[0].sampling.temperature, samples[0].sampling.top_k) == (0.0, 0)
    assert (samples[2].sampling.temperature, samples[2].sampling.top_k) == (0.9, NUM_CANDIDATES)


def test_tokens_that_tie_with_the_last_candidate_may_be_drawn(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 many do."""
    monkeypatch.setattr("paceline.training.generate.NUM_CANDIDATES", 6)
    runner = make_runner(directory, dtype=torch.bfloat16, max_sessions=SLOTS)
    jobs = [Job(tokens(4, seed), 5.0, 40, seed=seed) for seed in range(6)]
    found, ties = generate(runner, jobs), 0
    for job, sample in zip(jobs, found, strict=True):
        text, logits = plain(runner, job)
        assert sample.tokens == text
        ties += sum(int((row >= row.topk(6).values[-1]).sum()) > 6 for row in logits)
    assert ties > 20


def test_hidden_states_are_those_of_one_pass_over_the_whole_text(runner: ModelRunner, samples: list[Sample]) -> None:
    """Bit for bit: a row's bits don't depend on the rows beside it. They are kept in bfloat16, as they travel."""
    for job, sample in zip(JOBS, samples, strict=True):
        assert sample.features is not None
        runner.open("whole")
        whole = runner.run([Feed("whole", 0, sample.tokens[:-1], 0)], TAPS)[0].features
        runner.close("whole")
        assert whole is not None
        assert sample.features_start == max(0, len(job.prompt) - 8)
        assert sample.features.shape == (len(sample.tokens) - 1 - sample.features_start, len(TAPS) * HIDDEN)
        assert sample.features.dtype == torch.bfloat16
        assert torch.equal(sample.features, whole[sample.features_start :].bfloat16())


def test_the_likeliest_tokens_are_those_of_the_logits(runner: ModelRunner, samples: list[Sample]) -> None:
    for job, sample in zip(JOBS, samples, strict=True):
        assert sample.top_ids is not None
        assert sample.top_logprobs is not None
        logits = plain(runner, job)[1]
        top = logits.topk(5, -1)
        assert sample.top_ids.dtype == torch.int32
        assert torch.equal(logits.gather(1, sample.top_ids.long()), top.values)
        assert torch.equal(sample.top_logprobs, logits.float().log_softmax(-1).topk(5, -1).values.bfloat16())


def test_a_greedy_text_says_its_likeliest_tokens(samples: list[Sample]) -> None:
    greedy = [one for one in samples if not one.temperature]
    assert len(greedy) == 4
    for sample in greedy:
        assert sample.top_ids is not None
        assert sample.top_logprobs is not None
        likeliest = (sample.top_logprobs == sample.top_logprobs[:, :1]) & (sample.top_ids >= 0)
        equals = [set(ids[are].tolist()) for ids, are in zip(sample.top_ids, likeliest, strict=True)]
        said = sample.tokens[sample.prompt_length :]
        assert all(token in ids for token, ids in zip(said, equals, strict=True))  # rounded logits may be equal
        assert sum(len(ids) == 1 for ids in equals) > len(said) // 2


def test_nothing_is_kept_that_nobody_wants(runner: ModelRunner, samples: list[Sample]) -> None:
    bare = generate(runner, JOBS, taps=(), num_top=0)
    assert [one.tokens for one in bare] == [one.tokens for one in samples]
    assert all((one.features, one.top_ids, one.top_logprobs) == (None, None, None) for one in bare)


def test_a_text_ends_with_its_first_stop_token(runner: ModelRunner, samples: list[Sample]) -> None:
    """Stop tokens in the prompt end nothing."""
    whole = samples[1]
    output = whole.tokens[whole.prompt_length :]
    stop = next(token for index, token in enumerate(output) if token not in output[:index] and index >= 2)
    index = output.index(stop)
    job = Job((*JOBS[1].prompt[:-1], stop), 0.0, 20)
    found, other = generate(runner, [JOBS[1], job], stop_token_ids=(stop,))
    assert found.tokens == whole.tokens[: whole.prompt_length + index + 1]
    assert found.features is not None
    assert found.top_ids is not None
    assert (len(found.features), len(found.top_ids)) == (len(found.tokens) - 1 - found.features_start, index + 1)
    assert len(other.tokens) > other.prompt_length


def test_the_targets_own_stop_tokens_are_known(runner: ModelRunner) -> None:
    jobs = [Job(tokens(4, seed), 3.0, 60, seed=seed) for seed in range(12)]
    own = runner.loaded.stop_token_ids
    assert own == (2,)
    made = [one.tokens[4:] for one in generate(runner, jobs, stop_token_ids=())]
    assert [one.tokens[4:] for one in generate(runner, jobs, stop_token_ids=own)] == made
    assert all(own[0] not in output[:-1] for output in made)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_long_prompts_are_fed_in_pieces(
    runner: ModelRunner, samples: list[Sample], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.training.generate.PREFILL_ROWS", rows)
    for found, expected in zip(generate(runner, JOBS), samples, strict=True):
        assert found.tokens == expected.tokens
        assert found.features is not None
        assert expected.features is not None
        assert torch.equal(found.features, expected.features)


def test_texts_come_as_they_end_and_leave_their_slots(runner: ModelRunner) -> None:
    jobs = [(f, Job(tokens(4, f), 0.0, most)) for f, most in ((7, 9), (8, 2), (9, 5), (3, 1))]
    order = [index for index, _ in Generator(runner, stop_token_ids=(VOCAB,)).run(jobs)]
    assert order == [8, 3, 9, 7]
    for index in range(SLOTS):
        runner.open(f"again {index}")
    for index in range(SLOTS):
        runner.close(f"again {index}")


def test_no_jobs_no_texts(runner: ModelRunner) -> None:
    assert generate(runner, []) == []
