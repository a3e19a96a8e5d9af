"""Rows beside others: what may stand at a position instead leaves no trace, and gets the bits of a draft."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import Internal
from paceline.models.runner import Feed, ModelRunner
from tests.support.tiny_models import make_runner, random_tokens, run, write_model

FED, DRAFT = 20, 6
TEXTS = {f"s{index}": random_tokens(FED + DRAFT + 4, seed=index) for index in range(3)}
TAPS = (1, -1)
KINDS = {
    "fused": ("llama", {"head_dim": 16}),
    "generic": ("qwen3", {"head_dim": 16}),
    "window": ("mistral", {"head_dim": 16, "sliding_window": 5}),
}
OTHERS = st.lists(st.tuples(st.integers(0, DRAFT - 1), st.integers(3, 96)), max_size=6, unique=True)
"""(index in the draft, token)"""


@pytest.fixture(scope="module", params=[(kind, dtype) for kind in KINDS for dtype in (torch.float32, torch.bfloat16)])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    kind, dtype = request.param
    family, config = KINDS[kind]
    made = make_runner(write_model(tmp_path_factory.mktemp("model"), family, **config), dtype=dtype)
    made.min_rows = 2
    return made


@pytest.fixture(autouse=True)
def all_open(runner: ModelRunner) -> Iterator[None]:
    for session, tokens in TEXTS.items():
        runner.open(session)
        runner.logits([Feed(session, 0, tokens[:FED], 0)])
    yield
    for session in TEXTS:
        runner.close(session)


def feed(session: str, others: list[tuple[int, int]]) -> Feed:
    """The draft, and what may stand beside it."""
    draft = TEXTS[session][FED : FED + DRAFT]
    return Feed(session, FED, draft, DRAFT, [(FED + index, token) for index, token in others])


def alone(runner: ModelRunner, session: str, index: int, token: int) -> torch.Tensor:
    """Logits after a token that was fed in the draft's place at ``index``."""
    return run(runner, [*TEXTS[session][: FED + index], token], [FED + index, 1])[-1]


@settings(max_examples=12, deadline=None)
@given(others=st.lists(OTHERS, min_size=3, max_size=3))
def test_rows_beside_others_change_nothing_and_get_the_logits_of_a_draft_of_their_own(
    others: list[list[tuple[int, int]]], runner: ModelRunner
) -> None:
    feeds = [feed(session, own) for session, own in zip(TEXTS, others, strict=True)]
    plain = runner.run([feed(session, []) for session in TEXTS], TAPS)
    for one, expected, output in zip(feeds, plain, runner.run(feeds, TAPS), strict=True):
        assert torch.equal(output.logits[:DRAFT], expected.logits)
        assert torch.equal(output.features[:DRAFT], expected.features)
        for row, (position, token) in enumerate(one.others, start=DRAFT):
            assert torch.equal(output.logits[row], alone(runner, one.session, position - FED, token))
    for session, tokens in TEXTS.items():  # nor did they leave anything in the cache
        after = runner.logits([Feed(session, FED + DRAFT, tokens[FED + DRAFT :], 4)])[0]
        assert torch.equal(after, run(runner, tokens, [FED + DRAFT, 4])[-4:])


@pytest.mark.parametrize("index", [0, 3, DRAFT - 1])
def test_a_row_that_is_adopted_stays_as_if_it_had_been_fed(runner: ModelRunner, index: int) -> None:
    token, then = 9, random_tokens(5, seed=7)
    output = runner.run([feed("s0", []), feed("s1", [(0, 8), (index, 7), (index, token)]), feed("s2", [(1, 5)])], TAPS)
    runner.adopt("s1", FED + index, token)
    runner.truncate("s1", FED + index + 1)
    text = [*TEXTS["s1"][: FED + index], token, *then]
    after = runner.logits([Feed("s1", FED + index + 1, then, 5)])[0]
    assert torch.equal(after, run(runner, text, [len(text)])[-5:])
    runner.open("fed")
    fed = runner.run([Feed("fed", 0, text[: FED + index + 1], 1)], TAPS)[0]
    runner.close("fed")
    assert torch.equal(output[1].features[-1], fed.features[-1])


def test_more_rows_than_there_are_homes_for_are_a_defect_of_ours(runner: ModelRunner) -> None:
    others = [(index % DRAFT, token) for index, token in enumerate(range(3, 96))] * 2
    assert len(others) > runner.max_beside
    with pytest.raises(Internal):
        runner.run([feed("s0", others)])
