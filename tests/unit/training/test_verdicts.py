"""What a coordinator logged becomes token sequences again, in one piece as far as the log goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import SamplingParams
from paceline.core.verdicts import Origin, Verdict, verdict_to_line
from paceline.training.verdicts import LoggedText, merge, read_verdicts

FIRST = Verdict("a", 3, 3, (13, 14), tail=(10, 11, 12))
SECOND = Verdict("a", 5, 3, (15,), draft=(15, 16), drafted=1, accepted=0)


def write(directory: Path, number: int, *verdicts: Verdict, end: str = "\n") -> Path:
    file = directory / f"verdicts-{number:08}.jsonl"
    file.write_text("\n".join(map(verdict_to_line, verdicts)) + end, "utf-8")
    return file


def test_records_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, 10, SECOND)
    write(tmp_path, 9, FIRST)
    assert list(read_verdicts(tmp_path)) == [FIRST, SECOND]


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, 1, FIRST)
    with file.open("a", encoding="utf-8") as more:
        more.write('{"session":"a","to')
    assert list(read_verdicts(tmp_path)) == [FIRST]


def test_a_broken_line_is_named_with_its_file_and_number(tmp_path: Path) -> None:
    file = write(tmp_path, 1, FIRST)
    with file.open("a", encoding="utf-8") as more:
        more.write("garbage\n")
    with pytest.raises(InvalidRequest, match=r"line 2 of .*verdicts-00000001\.jsonl: it is not JSON"):
        list(read_verdicts(tmp_path))


def test_an_empty_directory_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no verdicts in"):
        list(read_verdicts(tmp_path))


def test_records_of_a_session_make_one_text_that_knows_its_prompt() -> None:
    other = Verdict("b", 1, 1, (7,), tail=(6,))
    texts = merge([FIRST, other, SECOND])
    assert texts == [
        LoggedText("a", 0, (10, 11, 12, 13, 14, 15), 3),
        LoggedText("b", 0, (6, 7), 1),
    ]
    assert [one.num_prompt for one in texts] == [3, 1]


def test_context_that_comes_again_in_a_new_file_is_not_doubled() -> None:
    again = Verdict("a", 5, 3, (15,), tail=(10, 11, 12, 13, 14))
    assert merge([FIRST, again]) == merge([FIRST, SECOND])


def test_a_text_has_the_origin_of_its_first_record_and_a_piece_after_a_gap_its_own() -> None:
    origin = Origin("target", SamplingParams(temperature=0.8, seed=7))
    first, lost = replace(FIRST, origin=origin), Verdict("a", 9, 3, (19,), tail=(17, 18))
    assert [one.origin for one in merge([first, SECOND, lost])] == [origin, None]
    assert [one.origin for one in merge([FIRST, replace(SECOND, origin=origin)])] == [origin]


def test_a_gap_begins_a_new_text_with_what_is_known_there() -> None:
    lost = merge([FIRST, Verdict("a", 9, 3, (19,), tail=(17, 18)), Verdict("a", 10, 3, (20,))])
    assert lost == [LoggedText("a", 0, (10, 11, 12, 13, 14), 3), LoggedText("a", 7, (17, 18, 19, 20), 3)]
    assert [one.num_prompt for one in lost] == [3, 0]
    assert merge([Verdict("a", 5, 3, (15,))]) == [LoggedText("a", 5, (15,), 3)]


@given(
    prompt=st.lists(st.integers(0, 99), min_size=1, max_size=9).map(tuple),
    steps=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple), min_size=1, max_size=9),
    tails=st.lists(st.integers(0, 12), min_size=9, max_size=9),
)
def test_however_often_context_is_given_the_text_is_the_same(
    prompt: tuple[int, ...], steps: list[tuple[int, ...]], tails: list[int]
) -> None:
    text, verdicts = prompt, []
    for index, step in enumerate(steps):
        tail = text if index == 0 else text[len(text) - min(tails[index], len(text)) :]
        verdicts.append(Verdict("s", len(text), len(prompt), step, tail=tail))
        text += step
    assert merge(verdicts) == [LoggedText("s", 0, text, len(prompt))]
