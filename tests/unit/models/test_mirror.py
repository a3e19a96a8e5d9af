"""A copy of a target's keys and values: the same rows, shown only as far as nothing that is looked at is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paceline.core.errors import ResourceExhausted
from paceline.core.types import FeatureFrame, KvFrame, KvShape, KvWish, StepItem
from paceline.models.frames import make_kv_frames
from paceline.models.loading import describe
from paceline.models.mirror import TargetMirror
from paceline.models.runner import Feed, ModelRunner
from paceline.models.view import TargetView
from tests.support.tiny_models import make_runner, random_tokens, write_model

WINDOW = 7
KINDS = ["sliding_attention", "full_attention"]
NEEDED = (KvShape("full_attention", 2, 16), KvShape("sliding_attention", 2, 16, history=WINDOW))
LENGTH = 50


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"layer_types": KINDS * 2, "num_hidden_layers": 4, "head_dim": 16, "sliding_window": WINDOW}
    return write_model(tmp_path_factory.mktemp("model"), "gemma3_text", **shape)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32])
def runner(directory: Path, request: pytest.FixtureRequest) -> ModelRunner:
    made = make_runner(directory, dtype=request.param)
    made.open("s")
    made.logits([Feed("s", 0, random_tokens(LENGTH), 0)])
    return made


@pytest.fixture
def mirror(directory: Path, runner: ModelRunner) -> TargetMirror:
    loaded = describe(directory, runner.loaded.dtype, max_context=128)
    made = TargetMirror(loaded, lambda ids: torch.zeros(len(ids), 64), NEEDED, max_sessions=2)
    made.open("s")
    return made


def frames(runner: ModelRunner, kind: str, start: int, end: int = LENGTH) -> tuple[KvFrame, ...]:
    """Rows of a session that is cached up to ``end``."""
    runner.slots.extend("s", end, 0)
    made = make_kv_frames(StepItem("s", 0, (), kv=(KvWish(kind, start),)), runner.view())
    runner.slots.extend("s", 0, LENGTH)
    return made


def fill(mirror: TargetMirror, runner: ModelRunner, start: int, end: int, sliding: int | None = None) -> None:
    firsts = {"full_attention": start, "sliding_attention": start if sliding is None else sliding}
    for kind, first in firsts.items():
        for frame in frames(runner, kind, first, end):
            mirror.add(frame)


def seen(view: TargetView, kind: str, window: int) -> torch.Tensor:
    q = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(3))
    return view.attend(kind, q, ["s"], window, 1.0)


def test_a_verifier_says_what_it_gives(runner: ModelRunner) -> None:
    assert runner.view().shapes() == (KvShape("full_attention", 2, 16), KvShape("sliding_attention", 2, 16))


def test_attention_to_the_copy_has_the_bits_of_attention_to_the_target(
    mirror: TargetMirror, runner: ModelRunner
) -> None:
    """In bfloat16; a target in float32 is copied as its frames say."""
    fill(mirror, runner, 0, 20, sliding=13)
    fill(mirror, runner, 20, 21)
    fill(mirror, runner, 21, LENGTH)
    assert mirror.view.length("s") == runner.view().length("s") == LENGTH
    for kind, window in (("full_attention", 0), ("sliding_attention", WINDOW)):
        first = LENGTH - window if window else 0
        ours = mirror.view.rows(kind, "s", first, LENGTH)
        assert torch.equal(ours, runner.view().rows(kind, "s", first, LENGTH))
        if runner.loaded.dtype == torch.bfloat16:
            assert torch.equal(seen(mirror.view, kind, window), seen(runner.view(), kind, window))


def test_frames_are_cut_to_what_a_message_carries_and_follow_each_other(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = frames(runner, "full_attention", 3)
    assert [(one.rows.start, one.rows.end) for one in whole] == [(3, LENGTH)]
    monkeypatch.setattr("paceline.models.frames.MAX_FRAME_BYTES", 10 * NEEDED[0].row_bytes)
    parts = frames(runner, "full_attention", 3)
    assert [(one.rows.start, one.rows.end) for one in parts] == [(3, 13), (13, 23), (23, 33), (33, 43), (43, LENGTH)]
    assert b"".join(one.rows.bf16 for one in parts) == whole[0].rows.bf16
    assert {one.rows.row_bytes for one in parts} == {NEEDED[0].row_bytes}
    assert frames(runner, "full_attention", LENGTH) == frames(runner, "full_attention", LENGTH + 9) == ()


def test_nothing_is_shown_until_every_kind_of_layer_is_there(mirror: TargetMirror, runner: ModelRunner) -> None:
    for frame in frames(runner, "full_attention", 0, 20):
        mirror.add(frame)
    assert mirror.view.length("s") == 0
    for frame in frames(runner, "sliding_attention", 13, 19):
        mirror.add(frame)
    assert mirror.view.length("s") == 0  # 19 would look at 12
    for frame in frames(runner, "sliding_attention", 19, 20):
        mirror.add(frame)
    assert mirror.view.length("s") == 20


def test_rows_behind_a_gap_are_no_use_until_a_whole_copy_comes(mirror: TargetMirror, runner: ModelRunner) -> None:
    fill(mirror, runner, 30, 33)
    assert mirror.view.length("s") == 0
    fill(mirror, runner, 0, 33, sliding=26)
    assert mirror.view.length("s") == 33
    fill(mirror, runner, 40, 44)
    assert mirror.view.length("s") == 0
    fill(mirror, runner, 0, 44, sliding=37)
    assert mirror.view.length("s") == 44


def test_rows_that_come_again_change_nothing(mirror: TargetMirror, runner: ModelRunner) -> None:
    fill(mirror, runner, 0, 30)
    fill(mirror, runner, 10, 25)
    assert mirror.view.length("s") == 30
    fill(mirror, runner, 10, 40)
    assert mirror.view.length("s") == 40
    assert torch.equal(mirror.view.rows("full_attention", "s", 0, 40), runner.view().rows("full_attention", "s", 0, 40))


def test_rows_beyond_the_context_are_left_out(mirror: TargetMirror) -> None:
    for shape in NEEDED:
        mirror.add(KvFrame("s", shape.kind, FeatureFrame(0, 130, bytes(130 * shape.row_bytes))))
    assert mirror.view.length("s") == 128
    for shape in NEEDED:
        mirror.add(KvFrame("s", shape.kind, FeatureFrame(130, 2, bytes(2 * shape.row_bytes))))
    assert mirror.view.length("s") == 128


def test_a_session_that_comes_again_begins_with_nothing(mirror: TargetMirror, runner: ModelRunner) -> None:
    fill(mirror, runner, 0, 30)
    mirror.close("s")
    mirror.close("s")
    assert mirror.view.length("s") == 0
    mirror.open("s")
    assert mirror.view.length("s") == 0
    mirror.open("t")
    with pytest.raises(ResourceExhausted, match="All 2 KV slots are taken"):
        mirror.open("u")
