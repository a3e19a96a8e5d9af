"""The pieces add up to the whole, and none of them holds half a character."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.text.detokenizer import Detokenizer
from paceline.text.tokenizer import Tokenizer


def in_pieces(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pieces = [detokenizer.push(ids[start:end]) for start, end in itertools.pairwise(edges)]
    return [*pieces, detokenizer.flush()]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_pieces_add_up_to_the_decoded_whole_for_any_ids(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.vocab_size + 3), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, 40), max_size=6))
    assert "".join(in_pieces(any_tokenizer, ids, cuts)) == any_tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_token_by_token_equals_the_whole_and_shows_no_partial_character(any_tokenizer: Tokenizer, text: str) -> None:
    ids = list(any_tokenizer.encode(text))
    pieces = in_pieces(any_tokenizer, ids, list(range(len(ids))))
    assert "".join(pieces) == any_tokenizer.decode(ids)
    if "\ufffd" not in any_tokenizer.decode(ids):
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_split_over_tokens_waits_for_its_last_byte(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("👩")
    assert len(ids) > 1
    detokenizer = Detokenizer(byte_tokenizer)
    assert [detokenizer.push([token]) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert detokenizer.push(ids[-1:]) == "👩"


def test_an_endless_run_of_broken_bytes_does_not_wait_for_ever(byte_tokenizer: Tokenizer) -> None:
    broken = byte_tokenizer.encode("👩")[0]
    detokenizer = Detokenizer(byte_tokenizer)
    shown = "".join(detokenizer.push([broken]) for _ in range(100))
    assert len(shown) >= 85
    assert shown + detokenizer.flush() == byte_tokenizer.decode([broken] * 100)


def test_special_tokens_have_no_text(byte_tokenizer: Tokenizer) -> None:
    end = byte_tokenizer.vocabulary["</s>"]
    detokenizer = Detokenizer(byte_tokenizer)
    assert detokenizer.push([end, *byte_tokenizer.encode("hi"), end]) == "hi"
    assert detokenizer.flush() == ""


def test_a_character_behind_broken_bytes_stays_whole_however_many_they_are(byte_tokenizer: Tokenizer) -> None:
    character = list(byte_tokenizer.encode("👩"))
    for count in range(20):
        ids = [character[0]] * count + character
        assert "".join(in_pieces(byte_tokenizer, ids, list(range(len(ids))))) == byte_tokenizer.decode(ids)
