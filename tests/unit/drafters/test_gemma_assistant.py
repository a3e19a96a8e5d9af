"""Assistants that read the target's keys and values: the library's drafts, and never a row that was rejected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.candidate_generator import SinglePositionMultiTokenCandidateGenerator

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    DraftJob,
    Guess,
    KvShape,
    Needs,
    SamplingParams,
    SessionSpec,
    StepItem,
    StopRules,
    Tokens,
)
from paceline.drafters import create_drafter
from paceline.drafters.gemma_assistant import GemmaAssistantDrafter
from paceline.drafters.gemma_network import GemmaNetwork, every_layer_shared
from paceline.models.invariance import Invariance
from paceline.models.loading import load
from paceline.models.runner import Feed, ModelRunner
from paceline.verifiers.torch import TorchVerifier
from tests.support.tiny_assistants import (
    TARGET,
    VOCAB,
    frame_of,
    library_drafts,
    look_at,
    stock_assistant,
    write_assistant,
)
from tests.support.tiny_models import make_runner, random_tokens, stock_model, write_model

COUNT = 5
"""Tokens of a guess."""
SAMPLING = [SamplingParams(), SamplingParams(temperature=0.8, top_p=0.95, seed=4)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Pair:
    """A target and its assistant: ours, and the library's."""

    directory: Path
    assistant: Path
    runner: ModelRunner = field(init=False)
    drafter: GemmaAssistantDrafter = field(init=False)
    stock: Any = field(init=False)
    stock_assistant: Any = field(init=False)

    def __post_init__(self) -> None:
        self.runner = make_runner(self.directory)
        with every_layer_shared():
            loaded = load(self.assistant, torch.float32, max_context=128)
        view = self.runner.view()
        self.drafter = GemmaAssistantDrafter(GemmaNetwork(loaded, view), view, 4, min_reach=0.0)
        self.stock = stock_model(self.directory)
        self.stock_assistant = stock_assistant(self.assistant)

    def open(self, session: str, text: Tokens, sampling: SamplingParams = SAMPLING[0]) -> None:
        """The target has seen all but the newest token."""
        self.runner.open(session)
        self.runner.logits([Feed(session, 0, text[:-1], 0)])
        self.drafter.open(SessionSpec(session, text, len(text), sampling, StopRules(100)))

    def close(self, session: str) -> None:
        self.runner.close(session)
        self.drafter.close(session)

    def job(self, session: str, text: Tokens, guessed: Tokens = (), seen: SimpleNamespace | None = None) -> DraftJob:
        frame = frame_of(seen or look_at(self.stock, text))
        return DraftJob(session, text + guessed, len(text), COUNT, (frame,))

    def theirs(self, text: Tokens, count: int = COUNT) -> Tokens:
        return library_drafts(self.stock, self.stock_assistant, text, count)


@pytest.fixture(scope="module", params=["whole vocabulary", "clusters"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = write_model(tmp_path_factory.mktemp("target"), "gemma4_text", **TARGET)
    return Pair(directory, write_assistant(tmp_path_factory.mktemp("assistant"), clusters=request.param == "clusters"))


def tokens(count: int, seed: int = 0) -> Tokens:
    return tuple(token % VOCAB for token in random_tokens(count, seed=seed))


def test_it_asks_for_the_last_hidden_state_and_for_keys_and_values(pair: Pair) -> None:
    shapes = (KvShape("full_attention", 2, 32), KvShape("sliding_attention", 2, 16, history=8))
    digest = pair.runner.loaded.digest
    assert pair.drafter.info.needs == Needs((-1,), 1, hidden_size=64, target_digest=digest, kv=shapes)


@pytest.mark.parametrize("length", [2, 5, 8, 9, 30, 100])
def test_drafts_are_the_librarys_inside_and_beyond_the_window(pair: Pair, length: int) -> None:
    text = tokens(length, seed=length)
    pair.open("s", text)
    assert pair.drafter.extend([pair.job("s", text)])[0].token_ids == pair.theirs(text)
    pair.close("s")


def test_drafts_are_those_of_the_librarys_assisted_generation(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared wherever the library sees what was committed, and no more.

    After a rejection it cuts keys and values one row too late, so that a rejected draft's are among them.
    """
    rounds = write_down(monkeypatch)
    pair.stock_assistant.generation_config.num_assistant_tokens = COUNT
    num_compared = 0
    for seed in range(4):
        rounds.clear()
        pair.stock.generate(
            torch.tensor([tokens(11, seed=seed)]),
            assistant_model=pair.stock_assistant,
            max_new_tokens=9,
            do_sample=False,
        )
        for text, drafts, num_rows in rounds:
            if num_rows == len(text) - 1:
                num_compared += 1
                pair.open("s", text)
                assert pair.drafter.extend([pair.job("s", text)])[0].token_ids[: len(drafts)] == drafts
                pair.close("s")
            else:
                assert num_rows == len(text)
    assert num_compared >= 4


def write_down(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tokens, Tokens, int]]:
    """(text, drafts, rows of keys seen) of each round of the library, which gets hidden states rounded as a frame's."""
    rounds: list[tuple[Tokens, Tokens, int]] = []
    original = SinglePositionMultiTokenCandidateGenerator.get_candidates

    def get_candidates(self: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        out, text = options["model_outputs"], tuple(input_ids[0].tolist())
        if out is not None:
            rounded = (out.hidden_states[-1].bfloat16().float(),)
            options["model_outputs"] = SimpleNamespace(hidden_states=rounded, shared_kv_states=out.shared_kv_states)
        ids, logits = original(self, input_ids, **options)
        if logits is not None:
            num_rows = min(out.shared_kv_states["full_attention"][0].shape[2], len(text))
            rounds.append((text, tuple(ids[0, len(text) :].tolist()), num_rows))
        return ids, logits

    monkeypatch.setattr(SinglePositionMultiTokenCandidateGenerator, "get_candidates", get_candidates)
    return rounds


def test_it_goes_on_from_what_others_guessed(pair: Pair) -> None:
    text = tokens(20)
    pair.open("s", text)
    own = pair.theirs(text, COUNT + 2)
    assert pair.drafter.extend([pair.job("s", text, own[:2])])[0].token_ids == own[2:]
    other = tuple((token + 1) % VOCAB for token in own[:2])
    assert pair.drafter.extend([pair.job("s", text, other)])[0].token_ids != own[2:]
    pair.close("s")


def test_sessions_drafted_together_say_what_each_says_alone(pair: Pair) -> None:
    texts = {f"s{length}": tokens(length, seed=length) for length in (3, 9, 40)}
    for session, text in texts.items():
        pair.open(session, text)
    guesses = pair.drafter.extend([pair.job(session, text) for session, text in texts.items()])
    assert guesses == [Guess(one.session, pair.theirs(texts[one.session]), one.confidences) for one in guesses]
    assert all(len(one.confidences) == COUNT for one in guesses)
    for session in texts:
        pair.close(session)


def test_without_the_state_of_the_newest_position_it_says_nothing(pair: Pair) -> None:
    text = tokens(12)
    pair.open("s", text)
    assert pair.drafter.extend([DraftJob("s", text, len(text), COUNT)]) == [Guess("s", ())]
    longer = (*text, 5)
    assert pair.drafter.extend([pair.job("s", longer)]) == [Guess("s", ())]
    pair.runner.logits([Feed("s", 11, text[11:], 0)])
    assert pair.drafter.extend([DraftJob("s", longer, len(longer), COUNT)])[0].token_ids == pair.theirs(longer)
    pair.close("s")


@pytest.fixture
def verifier(pair: Pair) -> Iterator[TorchVerifier]:
    with ThreadPoolExecutor(1) as worker:
        yield TorchVerifier(pair.runner, Invariance(True, 1, 1, ""), worker)


async def decode(verifier: TorchVerifier, pair: Pair, sampling: SamplingParams, right: Tokens | None) -> Tokens:
    """24 tokens; with ``right`` the assistant drafts too, in every third round behind two tokens of ``right``."""
    prompt = tokens(10)
    spec = SessionSpec("s", prompt, len(prompt), sampling, StopRules(100))
    verifier.open(spec)
    pair.drafter.open(spec)
    text, cached, rounds = prompt, 0, 0
    while len(text) < 34:
        draft: Tokens = ()
        if right is not None and cached:
            hint = right[len(text) - 10 :][:2] if rounds % 3 == 0 else ()
            draft = hint + pair.drafter.extend([pair.job("s", text, hint)])[0].token_ids
            assert len(draft) == COUNT + len(hint)
        outcome = (await verifier.step([StepItem("s", cached, text[cached:] + draft, len(draft))])).outcomes[0]
        cached, rounds = len(text) + outcome.accepted, rounds + 1
        text += outcome.token_ids
    verifier.close("s")
    pair.drafter.close("s")
    return text[10:34]


@pytest.mark.parametrize("sampling", SAMPLING)
async def test_text_is_that_of_plain_decoding(pair: Pair, verifier: TorchVerifier, sampling: SamplingParams) -> None:
    plain = await decode(verifier, pair, sampling, None)
    assert await decode(verifier, pair, sampling, plain) == plain


async def test_no_rejected_row_is_seen(pair: Pair, verifier: TorchVerifier) -> None:
    prompt = tokens(10)
    spec = SessionSpec("s", prompt, len(prompt), SAMPLING[0], StopRules(100))
    verifier.open(spec)
    pair.drafter.open(spec)
    best = (await verifier.step([StepItem("s", 0, prompt)])).outcomes[0].token_ids
    wrong = tuple((best[0] + index) % VOCAB for index in (1, 2, 3))
    await verifier.step([StepItem("s", 9, (*prompt[9:], *wrong), 3)])
    text = prompt + best
    poison(pair.runner, "s", len(prompt))
    view, heads = pair.runner.view(), torch.ones(1, 4, 32)
    assert view.length("s") == len(prompt)
    assert pair.drafter.extend([pair.job("s", text)])[0].token_ids == pair.theirs(text)
    assert view.attend("full_attention", heads, ["s"], 0, 1.0).isfinite().all()
    pair.runner.slots._lengths["s"] += 1  # what it would be to show one row more
    assert not view.attend("full_attention", heads, ["s"], 0, 1.0).isfinite().any()
    verifier.close("s")
    pair.drafter.close("s")
    heal(pair.runner)


def caches(runner: ModelRunner) -> list[Any]:
    found = [runner._forward.keys_and_values(kind) for kind in ("full_attention", "sliding_attention")]
    assert None not in found
    return found


def poison(runner: ModelRunner, session: str, length: int) -> None:
    """Nothing can look at these rows and not show it."""
    for cache in caches(runner):
        rows = torch.full((runner.slots.capacity - length, *cache.shape), torch.nan)
        cache.put_rows(runner.slots.slot(session), length, rows, rows)


def heal(runner: ModelRunner) -> None:
    for cache in caches(runner):
        for array in cache.arrays:
            np.nan_to_num(array, copy=False)


def settings(assistant: Path) -> DrafterSettings:
    return DrafterSettings(drafter="gemma_assistant", model=str(assistant), max_sessions=3)


def test_it_is_made_by_its_name_inside_a_verifier(pair: Pair) -> None:
    made = create_drafter(settings(pair.assistant), pair.runner.view())
    assert made.info.max_sessions == 3
    assert made.info.vocab_size == VOCAB
    assert made.info.model_digest == pair.drafter.info.model_digest


def test_without_a_target_it_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidRequest, match=r"target: gemma_assistant .* set it to the verifier's model, or run"):
        create_drafter(settings(pair.assistant))
    with pytest.raises(InvalidRequest, match="keys and values, which only the torch back end shows"):
        create_drafter(settings(pair.assistant), Nothing())


class Nothing:
    """A target's state that shows nothing."""

    model_digest = ""

    def length(self, session: str) -> int:
        return 0


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "hidden size": ({"backbone": 48}, "hidden states of 48, and .* has 64"),
    "vocabulary": ({"vocab_size": 100}, "a vocabulary of 100, and .* has 96"),
    "head size": ({"global_head_dim": 16}, r"full_attention .* \(2, 16\), and .* has \(2, 32\)"),
    "heads": ({"num_key_value_heads": 1}, r"full_attention .* \(1, 32\), and .* has \(2, 32\)"),
}


@pytest.mark.parametrize("name", list(MISFITS))
def test_an_assistant_of_another_target_is_refused(pair: Pair, name: str, tmp_path: Path) -> None:
    config, message = MISFITS[name]
    with pytest.raises(InvalidRequest, match=message):
        create_drafter(settings(write_assistant(tmp_path, **config)), pair.runner.view())


@pytest.mark.parametrize(("digest", "fits"), [("own", True), ("0" * 64, False)])
def test_a_target_named_by_its_digest_must_be_that_one(pair: Pair, digest: str, fits: bool, tmp_path: Path) -> None:
    file = write_assistant(tmp_path) / "config.json"
    named = pair.runner.loaded.digest if digest == "own" else digest
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_digest": named}))
    if fits:
        assert create_drafter(settings(tmp_path), pair.runner.view())
    else:
        with pytest.raises(InvalidRequest, match="the target with digest 0000"):
            create_drafter(settings(tmp_path), pair.runner.view())


def test_a_model_that_is_no_assistant_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidRequest, match="is a gemma4_text, no Gemma 4 assistant"):
        create_drafter(settings(pair.directory), pair.runner.view())


def test_a_target_without_windows_has_no_assistant(pair: Pair, tmp_path: Path) -> None:
    runner = make_runner(write_model(tmp_path, vocab_size=VOCAB, head_dim=32))
    with pytest.raises(InvalidRequest, match=r"sliding_attention .* has None"):
        create_drafter(settings(pair.assistant), runner.view())


def test_pickled_weights_are_never_read(pair: Pair, tmp_path: Path) -> None:
    write_assistant(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidRequest, match="pickled weights are never read"):
        create_drafter(settings(tmp_path), pair.runner.view())
