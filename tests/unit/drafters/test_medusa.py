"""The heads drafter guesses what its network in training says of the newest row; second choices become branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.types import DraftJob, FeatureFrame, Guess, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters.learned import MIN_BRANCH
from paceline.drafters.medusa import MedusaDrafter, network_from
from paceline.drafters.medusa_network import PackedMedusa
from paceline.models.sampling import RowSampler
from tests.support.tiny_drafters import BLOCK, HEADS, TAPS, make_medusa, make_trained, token_ids, write_drafter
from tests.support.tiny_models import VOCAB, random_tokens

TRAINED = make_medusa()
NETWORK = network_from(TRAINED)
IDS = token_ids()
OWN = {int(token): own for own, token in enumerate(IDS)}
TEXT = tuple(random_tokens(40, seed=7))
FEATURES = torch.randn(40, HEADS.features, generator=torch.Generator().manual_seed(8)).bfloat16()
"""What the target thought at each position of ``TEXT``."""
SURE = ((0.0, 9.0),)
"""So sure of everything that no guess ends early."""
TORN = ((0.0, -0.4),)
"""Every choice is right four times in ten, whatever the network says."""


def make_drafter(calibration: tuple[tuple[float, float], ...] = SURE, **settings: object) -> MedusaDrafter:
    made = DrafterSettings(drafter="medusa", dtype="float32", quantize="", **settings)  # type: ignore[arg-type]
    trained = dataclasses.replace(TRAINED, about=dataclasses.replace(TRAINED.about, calibration=calibration))
    return MedusaDrafter(trained, made)


def frame(start: int, end: int) -> FeatureFrame:
    return FeatureFrame(start, end - start, FEATURES[start:end].view(torch.int16).numpy().tobytes())


def open_session(
    drafter: MedusaDrafter, committed: int, sampling: SamplingParams | None = None, fan_out: int = 1
) -> None:
    law = sampling or SamplingParams()
    drafter.open(SessionSpec("s", TEXT[:committed], 4, law, StopRules(100), fan_out=fan_out))


def ask(
    drafter: MedusaDrafter, committed: int, *frames: FeatureFrame, path: Tokens = (), max_tokens: int = BLOCK
) -> Guess:
    return drafter.extend([DraftJob("s", TEXT[:committed] + path, committed, max_tokens, frames)])[0]


def logits(committed: int, *, is_seen: bool = True) -> torch.Tensor:
    """[place, vocab], by the network in training."""
    position = committed - 2
    word = torch.tensor(OWN.get(TEXT[position + 1], len(IDS)))
    with torch.inference_mode():
        row = NETWORK.rows(FEATURES[position], torch.tensor(is_seen), word)
        return torch.stack([NETWORK.logits(NETWORK.states(row, place)) for place in range(BLOCK)])


def first_choices(committed: int, *, is_seen: bool = True) -> Tokens:
    return tuple(IDS[logits(committed, is_seen=is_seen).argmax(-1)].tolist())


def test_the_packed_heads_compute_what_the_network_in_training_does() -> None:
    words = torch.randint(0, HEADS.vocab + 1, (9,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        packed = PackedMedusa(NETWORK, torch.float32)
        rows = NETWORK.rows(FEATURES[:9], torch.ones(9, dtype=torch.bool), words)
        torch.testing.assert_close(packed.rows(FEATURES[:9], words), rows, rtol=1e-4, atol=1e-4)
        for place in range(BLOCK):
            expected = NETWORK.logits(NETWORK.states(rows, place))
            found = packed.logits(packed.states(rows, place))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("committed", [2, 3, 17, 30])
def test_a_block_is_the_first_choice_of_every_head(committed: int) -> None:
    drafter = make_drafter()
    open_session(drafter, committed)
    assert ask(drafter, committed, frame(0, committed - 1)).token_ids == first_choices(committed)


def test_only_the_newest_hidden_states_matter() -> None:
    drafter = make_drafter()
    open_session(drafter, 20)
    assert ask(drafter, 20, frame(3, 9), frame(18, 19)).token_ids == first_choices(20)


def test_without_hidden_states_the_text_alone_is_used() -> None:
    drafter = make_drafter()
    open_session(drafter, 20)
    assert ask(drafter, 20, frame(3, 9)).token_ids == first_choices(20, is_seen=False)


def test_hidden_states_that_come_late_replace_a_row_of_text_alone_and_stay() -> None:
    drafter = make_drafter()
    open_session(drafter, 20)
    ask(drafter, 20)
    assert ask(drafter, 20, frame(0, 19)).token_ids == first_choices(20)
    assert ask(drafter, 20).token_ids == first_choices(20)
    assert ask(drafter, 21).token_ids == first_choices(21, is_seen=False)


def test_beyond_the_committed_tokens_the_later_heads_go_on() -> None:
    drafter = make_drafter()
    open_session(drafter, 20)
    assert ask(drafter, 20, frame(0, 19), path=(1, 2)).token_ids == first_choices(20)[2:]
    assert ask(drafter, 20, path=(1,) * BLOCK).token_ids == ()


def test_sessions_at_different_places_are_drafted_for_at_once() -> None:
    drafter = make_drafter()
    jobs = []
    for name, committed, path in (("a", 9, ()), ("b", 20, (1, 2)), ("c", 1, ()), ("d", 30, (4,))):
        drafter.open(SessionSpec(name, TEXT[:committed], 4, SamplingParams(), StopRules(100)))
        frames = (frame(0, committed - 1),) if committed > 1 else ()
        jobs.append(DraftJob(name, TEXT[:committed] + path, committed, BLOCK, frames))
    expected = [first_choices(9), first_choices(20)[2:], (), first_choices(30)[1:]]
    assert [guess.token_ids for guess in drafter.extend(jobs)] == expected


def test_no_more_than_asked_for_is_guessed() -> None:
    drafter = make_drafter()
    open_session(drafter, 20)
    assert ask(drafter, 20, frame(0, 19), max_tokens=2).token_ids == first_choices(20)[:2]


@pytest.mark.parametrize("fan_out", [1, 2, 3])
def test_second_choices_become_branches_that_go_on_as_the_main_path_does(fan_out: int) -> None:
    """A first choice that is right four times in ten leaves as much to the second, and little to the third."""
    drafter = make_drafter(TORN)
    open_session(drafter, 20, fan_out=fan_out)
    guess = ask(drafter, 20, frame(0, 19), max_tokens=2)
    first, second = IDS[logits(20).topk(3).indices[:2]].tolist()
    expected = [(20, (first[1], second[0])), (20, (first[2], second[0])), (21, (second[1],)), (21, (second[2],))]
    if fan_out == 1:
        expected = expected[::2]
    assert guess.token_ids == (first[0], second[0])
    assert sorted((one.position, one.token_ids) for one in guess.branches) == sorted(expected)


def test_the_chances_of_a_place_s_choices_sum_to_one_at_most_and_the_likeliest_branch_comes_first() -> None:
    drafter = make_drafter(TORN)
    open_session(drafter, 20, fan_out=3)
    guess = ask(drafter, 20, frame(0, 19))
    at_20 = [guess.confidences[0], *(one.confidences[0] for one in guess.branches if one.position == 20)]
    assert sum(at_20) <= 1.0
    reach = {20 + i: float(torch.tensor(guess.confidences[:i]).prod()) for i in range(len(guess.token_ids))}
    chances = [reach[one.position] * one.confidences[0] for one in guess.branches]
    assert chances == sorted(chances, reverse=True)
    assert min(chances) >= MIN_BRANCH - 1e-6


def draw(row: torch.Tensor, law: SamplingParams, context: Sequence[int]) -> int:
    """What the target draws when it thinks so of the known tokens, and nothing of others."""
    whole = torch.full((VOCAB,), -torch.inf)
    whole[IDS] = row
    return RowSampler(law, 4).next_token(whole, context, len(context))


def test_at_a_temperature_the_first_choice_is_the_target_s_draw_over_the_known_tokens() -> None:
    law = SamplingParams(temperature=0.9, seed=5)
    drafter = make_drafter()
    open_session(drafter, 20, law)
    guess = ask(drafter, 20, frame(0, 19))
    context, expected = list(TEXT[:20]), []
    for row in logits(20):
        expected.append(draw(row, law, context))
        context.append(expected[-1])
    assert guess.token_ids == tuple(expected)


def test_needs_are_the_taps_that_it_was_trained_with() -> None:
    info = make_drafter().info
    assert (info.name, info.needs.hidden_states, info.max_window) == ("medusa tiny", TAPS, BLOCK)


def test_more_places_than_heads_are_refused() -> None:
    about = dataclasses.replace(TRAINED.about, block=BLOCK + 1)
    with pytest.raises(InvalidRequest, match="as many heads"):
        MedusaDrafter(dataclasses.replace(TRAINED, about=about), DrafterSettings(dtype="float32"))
    with pytest.raises(InvalidRequest, match="trained for blocks of 5 tokens, not 6"):
        make_drafter(block=BLOCK + 1)


def test_another_kind_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    directory = write_drafter(tmp_path / "tiny", trained=make_trained())
    with pytest.raises(InvalidRequest, match="set drafter=mtp"):
        MedusaDrafter.load(DrafterSettings(drafter="medusa", model=str(directory)))
    with pytest.raises(InvalidRequest, match="paceline train has made"):
        MedusaDrafter.load(DrafterSettings(drafter="medusa"))
