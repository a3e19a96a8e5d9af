"""The record of a draft and what became of it survives its line; what is no record is said so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.verdicts import Verdict, verdict_from_line, verdict_to_line

count = st.integers(0, 2**32 - 1)
tokens = st.lists(count, max_size=5).map(tuple)
verdicts = st.builds(
    Verdict,
    session=st.text(min_size=1, max_size=8),
    start=count,
    prompt_length=count,
    tokens=st.lists(count, min_size=1, max_size=5).map(tuple),
    draft=tokens,
    drafted=count,
    accepted=count,
    source=st.text(max_size=8),
    tail=tokens,
)


@given(verdicts)
def test_a_record_is_one_line_and_comes_back(verdict: Verdict) -> None:
    line = verdict_to_line(verdict)
    assert "\n" not in line
    assert line.isascii()
    assert verdict_from_line(line) == verdict


def test_what_is_empty_takes_no_room() -> None:
    assert verdict_to_line(Verdict("s", 3, 3, (4,))) == '{"session":"s","start":3,"prompt_length":3,"tokens":[4]}'


def test_fields_of_a_later_version_are_left_aside() -> None:
    assert verdict_from_line('{"session":"s","tokens":[4],"mood":"fine"}') == Verdict("s", 0, 0, (4,))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no verdict"),
        ('{"session":"s"}', "session and tokens are needed"),
        ('{"tokens":[1]}', "session and tokens are needed"),
        ('{"session":3,"tokens":[1]}', "session is 3"),
        ('{"session":"s","tokens":[-1]}', "tokens is"),
        ('{"session":"s","tokens":"x"}', "tokens is"),
        ('{"session":"s","tokens":[1],"start":1.5}', "start is 1.5"),
        ('{"session":"s","tokens":[1],"drafted":true}', "drafted is True"),
        ('{"session":"s","tokens":[1],"source":[]}', "source is"),
    ],
)
def test_what_is_no_record_is_said_so(line: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        verdict_from_line(line)
