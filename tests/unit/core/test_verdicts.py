"""The record of a draft and what became of it survives its line; what is no record is said so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import Profile, Sampler, SamplingParams
from paceline.core.verdicts import Origin, Verdict, verdict_from_line, verdict_to_line

count = st.integers(0, 2**32 - 1)
tokens = st.lists(count, max_size=5).map(tuple)
real = st.floats(-9.0, 9.0)
laws = st.builds(
    SamplingParams,
    temperature=real,
    top_k=count,
    top_p=real,
    min_p=real,
    repetition_penalty=real,
    presence_penalty=real,
    frequency_penalty=real,
    logit_bias=st.lists(st.tuples(count, real), max_size=2).map(tuple),
    allowed_tokens=tokens,
    banned_tokens=tokens,
    seed=st.integers(0, 2**64 - 1),
    sampler=st.sampled_from(Sampler),
)
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
    origin=st.none() | st.builds(Origin, st.text(max_size=8), laws, st.sampled_from(Profile)),
)


@given(verdicts)
def test_a_record_is_one_line_and_comes_back(verdict: Verdict) -> None:
    line = verdict_to_line(verdict)
    assert "\n" not in line
    assert line.isascii()
    assert verdict_from_line(line) == verdict


def test_what_is_empty_takes_no_room() -> None:
    head = '{"version":2,"session":"s","start":3,"prompt_length":3,"tokens":[4]'
    assert verdict_to_line(Verdict("s", 3, 3, (4,))) == head + "}"
    greedy, warm = SamplingParams(), SamplingParams(temperature=0.8, seed=7)
    assert verdict_to_line(Verdict("s", 3, 3, (4,), origin=Origin("t", greedy))) == (
        head + ',"origin":{"target":"t","profile":"auto"}}'
    )
    assert verdict_to_line(Verdict("s", 3, 3, (4,), origin=Origin("t", warm, Profile.CODE))) == (
        head + ',"origin":{"target":"t","profile":"code","law":{"temperature":0.8,"seed":7}}}'
    )


def test_records_of_the_first_version_have_no_origin() -> None:
    assert verdict_from_line('{"session":"s","tokens":[4]}').origin is None


def test_a_later_version_is_refused_since_it_may_mean_something_else() -> None:
    with pytest.raises(InvalidRequest, match="version 3, and this program knows up to 2; update it"):
        verdict_from_line('{"version":3,"session":"s","tokens":[4]}')


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
        ('{"session":"s","tokens":[1],"version":"2"}', "version is"),
        ('{"session":"s","tokens":[1],"origin":"t"}', "origin is"),
        ('{"session":"s","tokens":[1],"origin":{"target":5}}', "origin is"),
        ('{"session":"s","tokens":[1],"origin":{"profile":"fast"}}', "origin is"),
        ('{"session":"s","tokens":[1],"origin":{"law":5}}', "is not a set of parameters"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"mood":1}}}', "a parameter 'mood' that this version"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"seed":-1}}}', "seed is -1"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"temperature":"hot"}}}', "temperature is 'hot'"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"sampler":"dice"}}}', "sampler is 'dice'"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"logit_bias":[[1]]}}}', "logit_bias is"),
        ('{"session":"s","tokens":[1],"origin":{"law":{"banned_tokens":7}}}', "banned_tokens is 7"),
    ],
)
def test_what_is_no_record_is_said_so(line: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        verdict_from_line(line)
