"""Measurements are interleaved and paired."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cli.measuring import Runner, Sample, compare, interleave, throughput
from paceline.cli.prompts import PromptRow, read_prompts, spread
from paceline.core.errors import InvalidRequest, NotFound

ROWS = [PromptRow(f"text {i}", str(i), "even" if i % 2 == 0 else "odd") for i in range(4)]


def sample(mode: str, row: PromptRow, seconds: float, ids: tuple[int, ...] = (1, 2)) -> Sample:
    return Sample(mode, row.task, row.name, 0, len(ids), seconds, 1.5, 2.0, ids)


def runner(mode: str, log: list[str], seconds: float = 1.0) -> Runner:
    async def measure(row: PromptRow) -> Sample:
        log.append(f"{mode} {row.name}")
        return sample(mode, row, seconds)

    return measure


async def test_every_prompt_runs_in_every_mode_before_the_next_and_the_order_turns() -> None:
    log: list[str] = []
    runners = {mode: runner(mode, log) for mode in ("a", "b")}
    samples = await interleave(ROWS[:3], runners, 2, lambda: None)
    assert log == [
        *("a 0", "b 0", "b 1", "a 1", "a 2", "b 2"),
        *("b 0", "a 0", "a 1", "b 1", "b 2", "a 2"),
    ]
    assert [one.round for one in samples] == [0] * 6 + [1] * 6


def test_ratios_are_paired_by_prompt_and_summed_up_by_task_and_in_all() -> None:
    samples = [sample("plain", row, 1.0) for row in ROWS]
    samples += [sample("fast", row, 1 / (1 + int(row.name))) for row in ROWS]
    by_name = {(one.mode, one.task): one for one in compare(samples, "plain")}
    assert by_name["fast", "all"].ratio == pytest.approx(2.5)
    assert (by_name["fast", "all"].low, by_name["fast", "all"].high) == pytest.approx((1.75, 3.25))
    assert by_name["fast", "even"].ratio == pytest.approx(2.0)
    assert by_name["fast", "odd"].num == 2
    assert by_name["plain", "all"].ratio == 1.0
    assert by_name["fast", "all"].identical


def test_one_different_token_makes_a_mode_not_identical() -> None:
    samples = [sample("plain", row, 1.0) for row in ROWS] + [sample("fast", row, 1.0) for row in ROWS[:3]]
    samples.append(sample("fast", ROWS[3], 1.0, (1, 3)))
    verdicts = {(one.mode, one.task): one.identical for one in compare(samples, "plain")}
    assert not verdicts["fast", "all"]
    assert not verdicts["fast", "odd"]
    assert verdicts["fast", "even"]


async def test_throughput_counts_all_tokens_and_keeps_to_its_number_of_sessions() -> None:
    running = 0
    highest = 0

    async def measure(row: PromptRow) -> Sample:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await _turn()
        running -= 1
        return sample("a", row, 1.0)

    tokens, seconds = await throughput(ROWS, measure, 2, lambda: None)
    assert tokens == 8
    assert seconds > 0
    assert highest == 2


async def _turn() -> None:
    import asyncio

    await asyncio.sleep(0)


def test_prompts_and_first_turns_are_read_with_their_names_and_tasks(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"turns": ["b", "c"], "question_id": 7, "task": "qa"}\n', "utf-8")
    assert read_prompts(file) == [PromptRow("a", "1", "all"), PromptRow("b", "7", "qa")]


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"turns": []}', '{"prompt": ""}', '{"prompt": 3}', '{"turns": "x"}'])
def test_a_line_without_a_prompt_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n', "utf-8")
    with pytest.raises(InvalidRequest, match="line 2"):
        read_prompts(file)


def test_a_missing_or_empty_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.jsonl"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    with pytest.raises(InvalidRequest, match="empty"):
        read_prompts(tmp_path / "empty.jsonl")


def test_a_limit_is_spread_over_the_file() -> None:
    assert [row.name for row in spread(ROWS, 2)] == ["0", "2"]
    assert spread(ROWS, 9) == ROWS


def test_names_that_come_again_stay_apart(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', "utf-8")
    assert [row.name for row in read_prompts(file)] == ["x", "x#2"]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('\n\n{"prompt": "fine"}\n\nbroken\n', "utf-8")
    with pytest.raises(InvalidRequest, match="line 5"):
        read_prompts(file)


def test_a_file_that_is_no_text_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read_prompts(file)


def test_line_separators_inside_a_prompt_do_not_cut_it(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a\u2028b\x85c"}\r\n', "utf-8")
    assert [row.text for row in read_prompts(file)] == ["a\u2028b\x85c"]
