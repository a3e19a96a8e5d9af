"""Modes of a benchmark: what is asked of the service in each, through a whole system in virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paceline.cli.modes import Asking, make_runners, parse_modes
from paceline.cli.plotting import check_plot
from paceline.cli.prompts import PromptRow, read_prompts
from paceline.cli.scoring import HashScorer, choose_scorer, is_synthetic
from paceline.cli.table import Taken, measure, score
from paceline.client.aio import Completion
from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.core.types import SamplingParams
from paceline.models.hash_model import HashModel
from paceline.testing.reference import SYNTHETIC, reference
from paceline.testing.system import LocalSystem, drafter, local_system

ROWS = [PromptRow("", str(index), "even" if index % 2 == 0 else "odd", (1, 2, 3 + index)) for index in range(4)]
ASKING = Asking(GenerateRequest("", seed=7, max_tokens=30))
PERFECT = DrafterSettings(drafter="synthetic", synthetic=replace(SYNTHETIC, agreement=1.0))


class Recorder:
    """Passes requests on and keeps them."""

    def __init__(self, system: LocalSystem) -> None:
        self._system = system
        self.requests: list[GenerateRequest] = []

    async def complete(self, request: GenerateRequest) -> Completion:
        self.requests.append(request)
        return await self._system.complete(request)


class Liar:
    """Changes the last token of every answer with drafts."""

    def __init__(self, system: LocalSystem) -> None:
        self._system = system

    async def complete(self, request: GenerateRequest) -> Completion:
        done = await self._system.complete(request)
        if request.mode is DraftMode.PLAIN:
            return done
        return replace(done, token_ids=(*done.token_ids[:-1], done.token_ids[-1] ^ 1))


def test_a_list_of_modes_has_names_and_draft_lengths() -> None:
    assert parse_modes("plain, 4,16,4,pipeline") == ["plain", "4", "16", "pipeline"]
    assert parse_modes("8,transformers", "plain") == ["plain", "8", "transformers"]


@pytest.mark.parametrize("text", ["", ",", "0", "65", "-1", "fast", "4.5", "plain,oracle", "٤"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="draft lengths from 1 to 64"):
        parse_modes(text)


@pytest.mark.looptime
async def test_each_mode_asks_for_its_draft_lengths() -> None:
    async with local_system() as system:
        service = Recorder(system)
        for runner in (await make_runners(["plain", "4", "pipeline"], service, ASKING, "")).values():
            await runner(ROWS[0])
    asked = [(one.mode.value, one.min_draft, one.max_draft) for one in service.requests]
    assert asked == [("plain", 0, None), ("pipeline", 4, 4), ("pipeline", 0, None)]
    assert {(one.prompt, one.seed, one.max_tokens) for one in service.requests} == {((1, 2, 3), 7, 30)}


async def table_of(service: LocalSystem | Liar, modes: list[str]) -> Taken:
    taken = Taken(modes)
    await measure(ROWS, await make_runners(modes, service, ASKING, ""), 1, taken)
    return taken


@pytest.mark.looptime
async def test_a_perfect_drafter_gives_full_blocks_and_the_times_of_their_steps() -> None:
    """Steps take 10 ms of the loop's time, so that every number is known."""
    async with local_system(drafters=[drafter(PERFECT)]) as system:
        taken = await table_of(system, ["plain", "4"])
    rows = {(one.mode, one.task): one for one in taken.rows()}
    plain, block = rows["plain", "all"], rows["4", "all"]
    assert plain.ms_per_token == pytest.approx(10.0)
    assert plain.tokens_per_s == pytest.approx(100.0, rel=1e-3)
    assert (plain.tokens_per_step, plain.tau, plain.num) == (1.0, None, 4)
    assert (block.acceptance_rate, block.identical) == (1.0, 1.0)
    steps = [one.speculative.num_steps for one in taken.samples if one.mode == "4"]
    assert block.tokens_per_step == 30 * 4 / sum(steps)
    assert block.speedup == pytest.approx(30 / steps[0], rel=1e-3)
    assert block.tau is not None
    assert 4 < block.tau <= 5
    assert [one.task for one in taken.rows()] == ["even", "odd", "all"] * 2


@pytest.mark.looptime
async def test_outputs_that_differ_are_counted() -> None:
    async with local_system() as system:
        taken = await table_of(Liar(system), ["plain", "4"])
    assert {one.identical for one in taken.rows() if one.mode == "4"} == {0.0}


@pytest.mark.looptime
async def test_the_target_judges_every_output_once_and_equal_ones_alike() -> None:
    async with local_system() as system:
        taken = await table_of(system, ["plain", "4", "pipeline"])
        (member,) = system.coordinator.describe().verifiers
    assert member.info is not None
    scorer = choose_scorer(member.info, None)()  # type: ignore[arg-type]
    taken.scores = score(ROWS, taken.samples, lambda row: row.token_ids, scorer)
    assert len(taken.scores) == len(ROWS)
    values = {one.log_likelihood for one in taken.rows() if one.task == "all"}
    assert len(values) == 1
    assert values != {None}


def test_the_log_likelihood_is_the_sum_of_the_models_own_log_probabilities() -> None:
    model, output = HashModel(SYNTHETIC.vocab_size), reference((1, 2, 3), 5)
    total = 0.0
    for index, token in enumerate(output):
        logits = model.logits((1, 2, 3, *output[:index])).astype(float)
        total += float(logits[token]) - float(_log_sum(logits))
    assert HashScorer(model).log_likelihood((1, 2, 3), output) == pytest.approx(total)
    unlikely = tuple(token ^ 1 for token in output)
    assert HashScorer(model).log_likelihood((1, 2, 3), unlikely) < total


def _log_sum(logits: object) -> float:
    import numpy as np

    return float(np.logaddexp.reduce(logits))


@pytest.mark.looptime
async def test_a_model_that_is_not_served_can_not_judge() -> None:
    async with local_system() as system:
        (member,) = system.coordinator.describe().verifiers
    info = replace(member.info, model_digest="another")  # type: ignore[type-var]
    assert not is_synthetic(info)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="--no-likelihood"):
        choose_scorer(info, None)  # type: ignore[arg-type]


def test_a_peer_that_only_decodes_greedily_is_not_asked_to_sample() -> None:
    asking = Asking(GenerateRequest("", sampling=SamplingParams(temperature=1.0)))
    coroutine = make_runners(["transformers"], None, asking, "")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="leave the temperature at 0"):
        coroutine.send(None)


def test_a_plot_of_an_unknown_kind_is_refused_before_the_measurement(tmp_path: Path) -> None:
    check_plot(tmp_path / "a.svg")
    with pytest.raises(InvalidRequest, match=r"\.svg nor \.png"):
        check_plot(tmp_path / "a.pdf")


def test_prompts_may_be_token_ids(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"token_ids": [1, 2], "task": "x"}\n', "utf-8")
    (row,) = read_prompts(file)
    assert (row.prompt(is_chat=True), row.task, row.text) == ((1, 2), "x", "")


@pytest.mark.parametrize("ids", ['"12"', "[-1]", "[1.5]", "[true]", "3"])
def test_token_ids_that_are_none_are_named_with_their_line(tmp_path: Path, ids: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(f'{{"token_ids": {ids}}}\n', "utf-8")
    with pytest.raises(InvalidRequest, match="token_ids in line 1"):
        read_prompts(file)
