"""An assistant outside the verifier, fed by frames: it says what it says inside, and what the library says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    DraftJob,
    FeatureFrame,
    KvFrame,
    KvWish,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepOutcome,
    StopRules,
    Tap,
    Tokens,
)
from paceline.drafters.gemma_assistant import GemmaAssistantDrafter
from paceline.drafters.warming import warm_up
from paceline.models.frames import make_kv_frames, rows_of
from paceline.models.invariance import Invariance
from paceline.models.runner import Feed, ModelRunner
from paceline.verifiers.torch import TorchVerifier
from tests.support.tiny_assistants import (
    TARGET,
    VOCAB,
    frame_of,
    from_afar,
    library_drafts,
    look_at,
    stock_assistant,
    write_assistant,
)
from tests.support.tiny_models import make_runner, random_tokens, stock_model, write_model

COUNT = 5
"""Tokens of a guess."""
SAMPLING = [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=4)]
KINDS = ("full_attention", "sliding_attention")


@dataclass
class Distance:
    """A target with its assistant inside, and the same assistant elsewhere."""

    directory: Path
    assistant: Path
    dtype: torch.dtype
    runner: ModelRunner = field(init=False)
    inside: GemmaAssistantDrafter = field(init=False)
    outside: GemmaAssistantDrafter = field(init=False)

    def __post_init__(self) -> None:
        self.runner = make_runner(self.directory, dtype=self.dtype)
        settings = self.settings()
        self.inside = GemmaAssistantDrafter.load(replace(settings, target=""), self.runner.view())
        self.outside = GemmaAssistantDrafter.load_elsewhere(settings, self.dtype)

    def settings(self, **changes: Any) -> DrafterSettings:
        common = DrafterSettings(
            drafter="gemma_assistant",
            model=str(self.assistant),
            target=str(self.directory),
            max_sessions=4,
            max_context=128,
        )
        return replace(common, **changes)

    def open(self, session: str, text: Tokens, sampling: SamplingParams = SAMPLING[0]) -> None:
        """The target has seen all but the newest token."""
        self.runner.open(session)
        self.features = self.runner.run([Feed(session, 0, text[:-1], 0)], (-1,))[0].features
        for drafter in (self.inside, self.outside):
            drafter.open(SessionSpec(session, text, len(text), sampling, StopRules(100)))

    def close(self, session: str) -> None:
        self.runner.close(session)
        for drafter in (self.inside, self.outside):
            drafter.close(session)

    def frames(self, session: str, start: int = 0) -> tuple[KvFrame, ...]:
        wishes = tuple(KvWish(kind, start) for kind in KINDS)
        return make_kv_frames(StepItem(session, 0, (), kv=wishes), self.runner.view())


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    target = write_model(tmp_path_factory.mktemp("target"), "gemma4_text", **TARGET)
    return target, write_assistant(tmp_path_factory.mktemp("assistant"), clusters=True)


@pytest.fixture(scope="module")
def far(directories: tuple[Path, Path]) -> Distance:
    return Distance(*directories, torch.bfloat16)


def tokens(count: int, seed: int = 0) -> Tokens:
    return tuple(token % VOCAB for token in random_tokens(count, seed=seed))


def job(text: Tokens, far: Distance, session: str = "s", guessed: Tokens = ()) -> DraftJob:
    """What both get: the frame of the newest hidden state, and keys and values for the one that has none."""
    rows = far.features[-1:].bfloat16()
    hidden = replace(frame_of(look_at_rows(rows)), start=len(text) - 2)
    return DraftJob(session, text + guessed, len(text), COUNT, (hidden,), far.frames(session))


def look_at_rows(rows: torch.Tensor) -> Any:
    return type("Seen", (), {"hidden_states": (rows[None],)})


def test_it_needs_the_same_inside_and_outside_and_is_bound_to_its_target(far: Distance) -> None:
    inside = far.inside.info
    embedding = far.outside._target.embed(range(VOCAB)).nbytes
    assert 0 <= far.outside.info.weights_bytes - inside.weights_bytes - embedding < 8
    assert replace(far.outside.info, weights_bytes=inside.weights_bytes) == inside
    assert far.outside.info.needs.target_digest == far.runner.loaded.digest
    shapes = [(one.kind, one.num_heads, one.head_size, one.history) for one in far.outside.info.needs.kv]
    assert shapes == [("full_attention", 2, 32, 0), ("sliding_attention", 2, 16, TARGET["sliding_window"] + 1)]


@pytest.mark.parametrize("length", [2, 5, 8, 9, 30, 100])
@pytest.mark.parametrize("sampling", SAMPLING, ids=["greedy", "warm"])
def test_drafts_are_those_of_the_assistant_inside(far: Distance, length: int, sampling: SamplingParams) -> None:
    text = tokens(length, seed=length)
    far.open("s", text, sampling)
    one = job(text, far)
    assert far.outside.extend([one]) == far.inside.extend([one])
    guess = far.outside.extend([replace(one, features=(), kv=())])[0]
    assert guess == far.inside.extend([one])[0]
    assert guess.token_ids
    far.close("s")


@pytest.mark.parametrize("clusters", [False, True])
def test_drafts_are_the_librarys(directories: tuple[Path, Path], tmp_path: Path, clusters: bool) -> None:
    """Which gets keys and values rounded as frames are."""
    assistant = write_assistant(tmp_path, clusters=clusters)
    far = Distance(directories[0], assistant, torch.float32)
    far.outside._min_reach = 0.0
    stock, theirs = stock_model(directories[0]), stock_assistant(assistant)
    for length in (2, 8, 9, 100):
        text = tokens(length, seed=length)
        far.open("s", text)
        seen = from_afar(look_at(stock, text))
        guess = far.outside.extend([replace(job(text, far), features=(frame_of(seen),))])[0]
        assert guess.token_ids == library_drafts(stock, theirs, text, COUNT, seen)
        far.close("s")


def test_it_goes_on_from_what_others_guessed(far: Distance) -> None:
    text = tokens(20)
    far.open("s", text)
    one = job(text, far, guessed=(7, 9))
    assert far.outside.extend([one]) == far.inside.extend([one])
    far.close("s")


def test_sessions_are_drafted_together_as_inside(far: Distance) -> None:
    jobs = []
    for length in (3, 9, 40):
        text = tokens(length, seed=length)
        far.open(f"s{length}", text)
        jobs.append(job(text, far, f"s{length}"))
    assert far.outside.extend(jobs) == far.inside.extend(jobs)
    for one in jobs:
        far.close(one.session)


def test_without_all_rows_that_it_looks_at_it_says_nothing(far: Distance) -> None:
    text = tokens(30)
    far.open("s", text)
    whole = job(text, far)
    late = far.frames("s", 27)
    assert far.outside.extend([replace(whole, kv=late)])[0].token_ids == ()
    assert far.outside.extend([replace(whole, kv=whole.kv[:1])])[0].token_ids == ()
    assert far.outside.extend([whole]) == far.inside.extend([whole])
    far.close("s")


def test_the_embedding_is_the_targets(far: Distance) -> None:
    ids = list(range(VOCAB))
    assert torch.equal(far.outside._target.embed(ids), far.inside._target.embed(ids))


def test_it_is_warmed_up_like_others_and_remembers_nothing_of_it(far: Distance) -> None:
    warm_up(far.outside)
    assert far.outside._target.length("warming up") == 0


class Loop:
    """A verifier and the assistant outside, step by step; each step's frames are kept."""

    def __init__(self, far: Distance, verifier: TorchVerifier, spec: SessionSpec) -> None:
        self.far, self.verifier = far, verifier
        self.text, self.cached, self.sent = spec.context, 0, 0
        self.frames: list[KvFrame] = []
        self.features: tuple[FeatureFrame, ...] = ()
        self.kv: tuple[KvFrame, ...] = ()
        verifier.open(spec)
        far.inside.open(spec)
        far.outside.open(spec)

    async def step(self, draft: Tokens = ()) -> StepOutcome:
        wishes = tuple(KvWish(kind, self.sent) for kind in KINDS)
        taps = (Tap("s", (-1,), 1),)
        item = StepItem("s", self.cached, self.text[self.cached :] + draft, len(draft), taps=taps, kv=wishes)
        outcome = (await self.verifier.step([item])).outcomes[0]
        self.cached = self.sent = len(self.text) + outcome.accepted
        self.text += outcome.token_ids
        self.frames += outcome.kv
        self.features, self.kv = outcome.features, self.kv + outcome.kv
        return outcome

    def draft(self, hint: Tokens = ()) -> Tokens:
        one = DraftJob("s", self.text + hint, len(self.text), COUNT, self.features, self.kv)
        self.kv = ()
        outside, inside = self.far.outside.extend([one])[0], self.far.inside.extend([one])[0]
        assert outside == inside
        return hint + outside.token_ids

    def close(self) -> None:
        self.verifier.close("s")
        self.far.inside.close("s")
        self.far.outside.close("s")


@pytest.fixture
def verifier(far: Distance) -> Iterator[TorchVerifier]:
    with ThreadPoolExecutor(1) as worker:
        yield TorchVerifier(far.runner, Invariance(True, 1, 1, ""), worker)


def spec(sampling: SamplingParams) -> SessionSpec:
    prompt = tokens(10)
    return SessionSpec("s", prompt, len(prompt), sampling, StopRules(100))


@pytest.mark.parametrize("sampling", SAMPLING, ids=["greedy", "warm"])
async def test_each_row_is_sent_once_and_the_text_is_that_of_plain_decoding(
    far: Distance, verifier: TorchVerifier, sampling: SamplingParams
) -> None:
    plain = Loop(far, verifier, spec(sampling))
    while len(plain.text) < 40:
        await plain.step()
    plain.close()
    loop, num_accepted = Loop(far, verifier, spec(sampling)), 0
    while len(loop.text) < 34:
        hint = plain.text[len(loop.text) :][:2] if len(loop.frames) % 3 else ()
        num_accepted += (await loop.step(loop.draft(hint) if loop.frames else ())).accepted
    loop.close()
    assert loop.text[:34] == plain.text[:34]
    assert num_accepted > 4
    for kind in KINDS:
        rows = [frame.rows for frame in loop.frames if frame.kind == kind]
        assert rows[0].start == 0
        assert [one.start for one in rows[1:]] == [one.end for one in rows[:-1]]
        assert rows[-1].end == len(loop.text) - 1


async def test_a_rejected_draft_is_in_no_frame(far: Distance, verifier: TorchVerifier) -> None:
    loop = Loop(far, verifier, spec(SAMPLING[0]))
    await loop.step()
    best = loop.text[-1]
    right = StepItem("s", 10, (best,), 0, kv=tuple(KvWish(kind, 10) for kind in KINDS))
    expected = (await verifier.step([right])).outcomes[0]
    wrong = tuple((expected.token_ids[0] + index) % VOCAB for index in (1, 2, 3))
    outcome = await loop.step(wrong)
    assert outcome.accepted == 0
    assert outcome.kv == expected.kv
    assert [frame.rows.end for frame in outcome.kv] == [len(loop.text) - 1] * 2
    poison(far.runner, loop.cached)
    assert all(rows_of(one.rows).isfinite().all() for one in far.frames("s"))
    far.runner.slots._lengths["s"] += 1  # what it would be to send one row more
    assert not any(rows_of(one.rows).isfinite().all() for one in far.frames("s"))
    far.runner.slots._lengths["s"] -= 1
    assert len(loop.draft()) > 0
    loop.close()


def poison(runner: ModelRunner, length: int) -> None:
    """Nothing can look at rows from here on and not show it."""
    for kind in KINDS:
        cache = runner._forward.keys_and_values(kind)
        assert cache is not None
        rows = torch.full((runner.slots.capacity - length, *cache.shape), torch.nan)
        cache.put_rows(runner.slots.slot("s"), length, rows, rows)


def test_a_target_of_another_family_or_size_or_digest_is_refused(far: Distance, tmp_path: Path) -> None:
    wide = write_model(tmp_path / "wide", "gemma4_text", **TARGET, hidden_size=128)
    with pytest.raises(InvalidRequest, match="hidden states of 64, and wide has 128"):
        GemmaAssistantDrafter.load_elsewhere(far.settings(target=str(wide)), far.dtype)
    llama = write_model(tmp_path / "llama", vocab_size=VOCAB, tie_word_embeddings=True)
    with pytest.raises(InvalidRequest, match=r"target: llama is a llama.* give the Gemma 4 model"):
        GemmaAssistantDrafter.load_elsewhere(far.settings(target=str(llama)), far.dtype)


def test_a_target_whose_files_are_broken_is_refused_by_name(far: Distance, tmp_path: Path) -> None:
    target = write_model(tmp_path / "target", "gemma4_text", **TARGET)
    weights = target / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(InvalidRequest, match=r"target: .* is no safetensors file .*; fetch the model again"):
        GemmaAssistantDrafter.load_elsewhere(far.settings(target=str(target)), far.dtype)
    weights.write_bytes(whole.replace(b"embed_tokens.weight", b"embed_tokens.wrong_"))
    with pytest.raises(InvalidRequest, match=r"target: .* has no embed_tokens\.weight"):
        GemmaAssistantDrafter.load_elsewhere(far.settings(target=str(target)), far.dtype)
