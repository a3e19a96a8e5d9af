"""The default model's own tokenizer: any ids, in any pieces, give the text of them all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.models.loading import prepare
from paceline.text.detokenizer import Detokenizer
from paceline.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(prepare("smollm2"))


@pytest.fixture(scope="module")
def fragments(tokenizer: Tokenizer) -> list[int]:
    """Tokens that hold a part of a character."""
    return [index for index in range(tokenizer.vocab_size) if "\ufffd" in tokenizer.decode([index])]


@pytest.fixture(scope="module")
def specials(tokenizer: Tokenizer) -> list[int]:
    return [index for index in range(tokenizer.vocab_size) if tokenizer.is_silent(index)]


def test_it_has_the_kinds_of_tokens_that_are_hard(fragments: list[int], specials: list[int]) -> None:
    assert len(fragments) > 100
    assert len(specials) >= 3


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_and_the_rest_add_up_to_the_whole(
    tokenizer: Tokenizer, fragments: list[int], specials: list[int], data: st.DataObject
) -> None:
    any_id = st.integers(0, tokenizer.vocab_size + 2)
    ids = data.draw(st.lists(any_id | st.sampled_from(fragments) | st.sampled_from(specials), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=6))
    detokenizer = Detokenizer(tokenizer)
    edges = [0, *sorted(cuts), len(ids)]
    pieces = [detokenizer.push(ids[start:end]) for start, end in itertools.pairwise(edges)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30))
def test_text_comes_back_token_by_token_in_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer)
    pieces = [*(detokenizer.push([index]) for index in ids), detokenizer.flush()]
    assert "".join(pieces) == tokenizer.decode(ids)
    if "\ufffd" not in tokenizer.decode(ids):
        assert all("\ufffd" not in piece for piece in pieces)
