"""Turns and figures: everybody gets the same groups, and what comes out is arithmetic on the turns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from paceline.cli.modes import Asking
from paceline.cli.peers.children import Generated, Loaded
from paceline.cli.peers.figures import Figure, Lead, figures, leads, page
from paceline.cli.peers.measuring import Absent, Contender, Plan, check_someone, measure, ours
from paceline.cli.prompts import PromptRow
from paceline.core.errors import Unavailable
from paceline.core.requests import GenerateRequest
from paceline.testing.reference import reference
from paceline.testing.system import local_system

ROWS = [PromptRow("", name, "all", (index + 1,)) for index, name in enumerate("abc")]
ABOUT = Loaded("fake 1", "GGUF Q4_1", 5.0, 1)


class Fake:
    """Answers each prompt with its own first token, ``seconds`` for a group; changes the answer to prompt c."""

    def __init__(self, name: str, seconds: float, steps: int | None = 2, *, is_odd: bool = False) -> None:
        self.name, self.seconds, self.steps, self.is_odd = name, seconds, steps, is_odd
        self.asked: list[str] = []

    async def run(self, group: Sequence[PromptRow]) -> Generated:
        self.asked.append("".join(row.name for row in group))
        outputs = tuple((row.token_ids[0], 9 if self.is_odd and row.name == "c" else 8) for row in group)
        return Generated(outputs, self.seconds, None if self.steps is None else self.steps * len(group))

    def contender(self, max_streams: int | None = None) -> Contender:
        engine, _, mode = self.name.partition(":")
        about = None if engine == "paceline" else ABOUT
        return Contender(self.name, engine, mode == "plain", self.run, max_streams, about)


class Broken(Fake):
    """Fails the third time."""

    async def run(self, group: Sequence[PromptRow]) -> Generated:
        if len(self.asked) == 2:
            raise Unavailable("gone")
        return await super().run(group)


def ignore(what: str) -> None:
    assert what


def test_groups_are_all_of_one_size() -> None:
    plan = Plan(ROWS, (1, 2))
    assert [[row.name for row in group] for group in plan.groups(1)] == [["a"], ["b"], ["c"]]
    assert [[row.name for row in group] for group in plan.groups(2)] == [["a", "b"], ["c", "a"]]
    assert [[row.name for row in group] for group in plan.groups(5)] == [["a", "b", "c", "a", "b"]]


async def test_everybody_gets_every_group_after_one_that_does_not_count() -> None:
    one, other, alone = Fake("paceline:plain", 1.0), Fake("x:plain", 1.0), Fake("x:lookup", 1.0)
    contenders = [one.contender(), other.contender(8), alone.contender(1)]
    plan, ticks = Plan(ROWS, (1, 2), rounds=2), list[str]()
    turns, absent = await measure(contenders, plan, ticks.append)
    assert one.asked == other.asked == ["a", *"abcabc", "ab", *["ab", "ca"] * 2]
    assert alone.asked == ["a", *"abcabc"]
    assert (len(turns), absent) == (6 * 3 + 4 * 2, [])
    assert len(ticks) == plan.num_turns(contenders) == len(turns) + 5


async def test_who_comes_first_changes_with_every_group() -> None:
    turns, _ = await measure([Fake(name, 1.0).contender() for name in "xyz"], Plan(ROWS, (1,)), ignore)
    assert "".join(one.contender for one in turns) == "xyz" + "yzx" + "zxy"


async def test_a_peer_that_fails_falls_out_and_the_others_go_on() -> None:
    healthy = Fake("paceline:plain", 1.0)
    turns, absent = await measure([healthy.contender(), Broken("x:plain", 1.0).contender(8)], Plan(ROWS, (1,)), ignore)
    assert absent == [Absent("x:plain", "gone")]
    assert [one.contender for one in turns] == ["paceline:plain"] * 3


async def test_a_failure_of_ours_ends_the_run() -> None:
    with pytest.raises(Unavailable, match="gone"):
        await measure([Broken("paceline:plain", 1.0).contender()], Plan(ROWS, (1,)), ignore)


def test_without_any_peer_there_is_nothing_to_compare() -> None:
    with pytest.raises(Unavailable, match="vllm:plain: not installed: make bench-peers"):
        check_someone([], [Absent("vllm:plain", "not installed: make bench-peers")])


@pytest.mark.looptime
async def test_ours_is_timed_by_whoever_asks_and_goes_past_the_end_of_a_text() -> None:
    asking = Asking(GenerateRequest("", seed=7, max_tokens=30, ignore_eos=True))
    async with local_system() as system:
        contender = ours("plain", system, asking)
        done = await contender.run(ROWS)
    assert done.outputs == tuple(reference(row.token_ids, 30) for row in ROWS)
    assert done.steps == 90
    assert (contender.name, contender.is_plain, contender.takes(1000)) == ("paceline:plain", True, True)


async def measured() -> tuple[list[Figure], list[Lead]]:
    contenders = [
        Fake("paceline:plain", 0.5).contender(),
        Fake("paceline:4", 0.125, 1).contender(),
        Fake("x:plain", 1.0).contender(8),
        Fake("x:lookup", 0.25, None, is_odd=True).contender(1),
    ]
    turns, _ = await measure(contenders, Plan(ROWS, (1, 2)), ignore)
    rows = figures(contenders, turns)
    return rows, leads(rows, turns)


async def test_the_figures_are_those_of_the_turns() -> None:
    rows, _ = await measured()
    found = {(one.contender, one.streams): one for one in rows}
    assert list(found) == [
        ("paceline:plain", 1),
        ("paceline:4", 1),
        ("x:plain", 1),
        ("x:lookup", 1),
        ("paceline:plain", 2),
        ("paceline:4", 2),
        ("x:plain", 2),
    ]
    assert [(one.rate, one.ratio, one.num) for one in rows] == [
        (4.0, 1.0, 3),
        (16.0, 4.0, 3),
        (2.0, 0.5, 3),
        (8.0, 2.0, 3),
        (8.0, 1.0, 2),
        (32.0, 4.0, 2),
        (4.0, 0.5, 2),
    ]
    assert [one.tokens_per_step for one in rows[:4]] == [1.0, 2.0, 1.0, None]
    assert found["paceline:4", 2].tokens_per_step == 2.0
    assert [one.identical for one in rows] == [1.0, 1.0, 1.0, pytest.approx(2 / 3), 1.0, 1.0, 1.0]
    assert (rows[2].weights, rows[2].bits_per_weight, rows[0].bits_per_weight) == ("GGUF Q4_1", 5.0, None)


async def test_the_fastest_of_ours_meets_the_fastest_of_theirs() -> None:
    _, ahead = await measured()
    assert ahead == [
        Lead(1, "paceline:4", "x:lookup", 2.0, 2.0),
        Lead(2, "paceline:4", "x:plain", 8.0, 8.0),
    ]


async def test_an_engine_without_its_plain_mode_has_nothing_to_be_the_same_as() -> None:
    contenders = [Fake("paceline:plain", 1.0).contender(), Fake("x:lookup", 1.0).contender(1)]
    turns, _ = await measure(contenders, Plan(ROWS, (1,)), ignore)
    assert [one.identical for one in figures(contenders, turns)] == [1.0, None]


async def test_the_page_has_a_line_for_everybody_also_for_who_is_absent() -> None:
    rows, ahead = await measured()
    lines = page(rows, ahead, [Absent("vllm:plain", "not installed: make bench-peers")]).splitlines()
    assert lines[0].startswith("| who | streams |")
    assert lines[2] == "| paceline:plain | 1 | 3 | 4.0 | 1.00 | 1.00–1.00 | 1.00 | 100% |  |"
    assert lines[5] == "| x:lookup | 1 | 3 | 8.0 | 2.00 | 2.00–2.00 | – | 67% | GGUF Q4_1, 5 bits |"
    assert lines[-3:] == [
        "1 at a time: paceline:4 is 2.00 × x:lookup (group by group: 2.00).",
        "2 at a time: paceline:4 is 8.00 × x:plain (group by group: 8.00).",
        "without figures: vllm:plain: not installed: make bench-peers",
    ]
