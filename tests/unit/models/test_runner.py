"""Slots, rollback and identity of a runner, on a tiny model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import Internal, ResourceExhausted
from paceline.models.runner import Feed, ModelRunner
from tests.support.tiny_models import VOCAB, feed, make_runner, random_tokens, run, write_model

TOKENS = random_tokens(40)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return make_runner(write_model(tmp_path_factory.mktemp("model"), request.param, head_dim=16))


@pytest.fixture(scope="module")
def whole(runner: ModelRunner) -> torch.Tensor:
    return run(runner, TOKENS, [len(TOKENS)])


@contextmanager
def opened(runner: ModelRunner, sessions: Iterable[str]) -> Iterator[None]:
    for session in sessions:
        runner.open(session)
    try:
        yield
    finally:
        for session in sessions:
            runner.close(session)


def test_rolled_back_drafts_leave_no_trace(runner: ModelRunner, whole: torch.Tensor) -> None:
    runner.open("s")
    feed(runner, TOKENS, [10], "s")
    for seed, count in enumerate((1, 8, 20)):
        runner.logits([Feed("s", 10, random_tokens(count, seed=seed), count)])
    after = [runner.logits([Feed("s", start, TOKENS[start : start + 6], 6)])[0] for start in (10, 16, 22, 28, 34)]
    assert torch.equal(torch.cat(after), whole[10:])
    runner.logits([Feed("s", 3, random_tokens(30, seed=9), 0)])
    assert torch.equal(runner.logits([Feed("s", 3, TOKENS[3:], 37)])[0], whole[3:])
    runner.close("s")


def test_a_cache_that_was_lost_is_rebuilt_bit_for_bit(runner: ModelRunner, whole: torch.Tensor) -> None:
    for sizes in ([40], [1] * 40, [7, 33], [13, 13, 13, 1]):
        runner.open("s")
        assert torch.equal(feed(runner, TOKENS, sizes, "s"), whole)
        runner.close("s")


@pytest.fixture(scope="module")
def texts(runner: ModelRunner) -> dict[str, tuple[list[int], torch.Tensor]]:
    """Four sessions' tokens, and their logits from a single pass."""
    tokens = {f"s{index}": random_tokens(60, seed=index) for index in range(4)}
    return {session: (one, run(runner, one, [60])) for session, one in tokens.items()}


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=12))
def test_sessions_never_see_each_other(
    steps: list[tuple[int, int, int]], runner: ModelRunner, texts: dict[str, tuple[list[int], torch.Tensor]]
) -> None:
    """Each step takes a session back and feeds some; every row equals the one of the session's single pass."""
    lengths = dict.fromkeys(texts, 0)
    with opened(runner, texts):
        for chosen, count, back in steps:
            lengths[f"s{chosen}"] = max(0, lengths[f"s{chosen}"] - back)
            feeds = []
            for index, (session, (tokens, _)) in enumerate(texts.items()):
                size = min((count + index) % 4 + (index == chosen), 60 - lengths[session])
                if size:
                    feeds.append(Feed(session, lengths[session], tokens[lengths[session] :][:size], size))
                    lengths[session] += size
            for one, logits in zip(feeds, runner.logits(feeds), strict=True):
                assert torch.equal(logits, texts[one.session][1][one.start : one.start + one.keep])


def test_prefill_without_logits_leads_to_the_same_logits(runner: ModelRunner, whole: torch.Tensor) -> None:
    runner.open("s")
    empty = runner.logits([Feed("s", 0, TOKENS[:30], 0)])[0]
    assert empty.shape == (0, VOCAB)
    assert torch.equal(runner.logits([Feed("s", 30, TOKENS[30:], 10)])[0], whole[30:])
    runner.close("s")


def test_all_slots_taken_is_said_and_nothing_is_lost(runner: ModelRunner) -> None:
    for index in range(4):
        runner.open(f"s{index}")
    with pytest.raises(ResourceExhausted, match="All 4 KV slots are taken"):
        runner.open("s4")
    for index in range(5):
        runner.close(f"s{index}")
    runner.open("s4")
    runner.close("s4")


def test_rows_beyond_the_context_are_a_defect_of_ours(runner: ModelRunner) -> None:
    runner.open("s")
    with pytest.raises(Internal):
        runner.logits([Feed("s", 0, random_tokens(129), 1)])
    runner.close("s")


def test_the_numerics_id_tells_weights_type_plan_and_padding_apart(directory: Path, tmp_path: Path) -> None:
    runner = make_runner(directory)
    assert runner.numerics_id == make_runner(directory, max_sessions=9, max_context=64).numerics_id
    ids = {
        runner.numerics_id,
        make_runner(directory, dtype=torch.bfloat16).numerics_id,
        make_runner(write_model(tmp_path, seed=1)).numerics_id,
    }
    runner.min_rows = 4
    ids.add(runner.numerics_id)
    assert len(ids) == 4
