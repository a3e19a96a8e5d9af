"""SmolLM2-135M: the bits of a row's logits depend on its own past only, not on how rows are grouped."""

from __future__ import annotations

import pytest
import torch

from paceline.models.invariance import settle
from paceline.models.runner import Feed, ModelRunner
from tests.support.tiny_models import feed, run

LENGTH, HEAD = 224, 192
"""Tokens of most tests, and how many of them are only prefill."""


@pytest.fixture(scope="module", autouse=True)
def settled(runner: ModelRunner) -> None:
    """The probe holds on this machine; all tests run with the padding that it found."""
    assert settle(runner).is_exact


@pytest.fixture(scope="module")
def whole(runner: ModelRunner, tokens: list[int]) -> torch.Tensor:
    """[LENGTH, vocab] in one pass."""
    return run(runner, tokens[:LENGTH], [LENGTH])


def tail(runner: ModelRunner, tokens: list[int], sizes: list[int]) -> torch.Tensor:
    """Logits behind HEAD when fed in these pieces."""
    out, start = [], HEAD
    for size in sizes:
        out += runner.logits([Feed("s", start, tokens[start : start + size], size)])
        start += size
    return torch.cat(out)


@pytest.mark.parametrize(
    "sizes",
    [[1] * 32, [9, 2, 5, 3, 8, 4, 1], [17, 15], [31, 1]],
    ids=["one row padded", "several drafts", "many drafts", "a large step and a small one"],
)
def test_decoding_and_verifying_give_the_bits_of_a_single_pass(
    runner: ModelRunner, tokens: list[int], whole: torch.Tensor, sizes: list[int]
) -> None:
    runner.open("s")
    runner.logits([Feed("s", 0, tokens[:HEAD], 0)])
    assert torch.equal(tail(runner, tokens, sizes), whole[HEAD:])
    runner.close("s")


@pytest.mark.parametrize("size", [7, 32, 33, 100, 223])
def test_prefill_in_chunks_gives_the_bits_of_a_single_pass(
    runner: ModelRunner, tokens: list[int], whole: torch.Tensor, size: int
) -> None:
    sizes = [min(size, LENGTH - start) for start in range(0, LENGTH, size)]
    assert torch.equal(run(runner, tokens[:LENGTH], sizes), whole)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_neighbours_of_other_lengths_change_nothing(
    runner: ModelRunner, tokens: list[int], whole: torch.Tensor, place: int
) -> None:
    others = {"a": 3, "b": 150, "c": 40}
    for session, length in others.items():
        runner.open(session)
        runner.logits([Feed(session, 0, tokens[5 : 5 + length], 0)])
    runner.open("s")
    for start, size in ((0, 100), (100, 92), (192, 1), (193, 9), (202, 1), (203, 21)):
        feeds = [
            Feed("a", 3, tokens[9:10], 1),
            Feed("b", 150, tokens[9:18], 9),
            Feed("c", 40, tokens[100 : 100 + place * 20], 0),
        ]
        feeds.insert(place, Feed("s", start, tokens[start : start + size], size))
        assert torch.equal(runner.logits(feeds)[place], whole[start : start + size])
    for session in ("s", *others):
        runner.close(session)


def test_a_lost_cache_is_rebuilt_in_other_pieces_in_another_slot(
    runner: ModelRunner, tokens: list[int], whole: torch.Tensor
) -> None:
    runner.open("s")
    feed(runner, tokens, [128, 64])
    runner.close("s")
    runner.open("intruder")
    runner.logits([Feed("intruder", 0, tokens[300:600], 0)])
    runner.open("s")
    assert torch.equal(feed(runner, tokens, [50, 50, 92, 1, 1, 30]), whole)
    runner.close("s")
    runner.close("intruder")


def test_rejected_drafts_leave_no_trace(runner: ModelRunner, tokens: list[int], whole: torch.Tensor) -> None:
    runner.open("s")
    runner.logits([Feed("s", 0, tokens[:HEAD], 0)])
    for start in range(HEAD, LENGTH, 4):
        garbage = [(7919 * (start + index)) % runner.loaded.vocab_size for index in range(8)]
        checked = runner.logits([Feed("s", start, tokens[start : start + 1] + garbage, 9)])[0]
        assert torch.equal(checked[:1], whole[start : start + 1])
        rest = runner.logits([Feed("s", start + 1, tokens[start + 1 : start + 4], 3)])[0]
        assert torch.equal(rest, whole[start + 1 : start + 4])
    runner.close("s")


def test_beyond_a_thousand_tokens_the_bits_are_the_same(runner: ModelRunner, tokens: list[int]) -> None:
    ends = {}
    for name, sizes in (("large", [256] * 4), ("small", [100] * 10 + [24])):
        runner.open("s")
        start = 0
        for size in sizes:
            runner.logits([Feed("s", start, tokens[start : start + size], 0)])
            start += size
        pieces = [12] if name == "large" else [1, 1, 5, 1, 4]
        out = []
        for size in pieces:
            out += runner.logits([Feed("s", start, tokens[start : start + size], size)])
            start += size
        ends[name] = torch.cat(out)
        runner.close("s")
    assert torch.equal(ends["small"], ends["large"])
