"""From committed tokens to what a client may see: nothing past a stop leaves, neither text nor ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.output import OutputText, Piece
from paceline.core.types import FinishReason
from paceline.testing.letters import LETTERS, letters

TOKENIZER = letters()


def ids(text: str) -> tuple[int, ...]:
    return tuple(LETTERS.index(letter) for letter in text)


def test_text_follows_its_tokens() -> None:
    output = OutputText(TOKENIZER, ())
    assert output.push(ids("ab"), None) == Piece(ids("ab"), "ab", None)
    assert output.push(ids("c"), FinishReason.LENGTH) == Piece(ids("c"), "c", FinishReason.LENGTH)


def test_without_a_tokenizer_there_is_no_text() -> None:
    assert OutputText(None, ()).push((1, 2), FinishReason.STOP) == Piece((1, 2), "", FinishReason.STOP)


def test_a_stop_id_is_kept_but_has_no_text() -> None:
    assert OutputText(TOKENIZER, ()).push(ids("abz"), FinishReason.STOP) == Piece(ids("abz"), "ab", FinishReason.STOP)


def test_a_stop_string_inside_a_piece_cuts_tokens_and_text() -> None:
    output = OutputText(TOKENIZER, ("cd",))
    assert output.push(ids("abcdef"), None) == Piece(ids("abcd"), "ab", FinishReason.STOP)


def test_a_stop_string_across_pieces_is_never_shown_in_part() -> None:
    output = OutputText(TOKENIZER, ("cde",))
    assert output.push(ids("abc"), None) == Piece(ids("abc"), "ab", None)
    assert output.push(ids("d"), None) == Piece(ids("d"), "", None)
    assert output.push(ids("ef"), None) == Piece(ids("e"), "", FinishReason.STOP)


def test_what_only_began_like_a_stop_string_is_shown_once_it_is_none() -> None:
    output = OutputText(TOKENIZER, ("cde",))
    assert output.push(ids("cd"), None).text == ""
    assert output.push(ids("x"), None).text == "cdx"


def test_what_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    output = OutputText(TOKENIZER, ("cde",))
    assert output.push(ids("abcd"), FinishReason.LENGTH) == Piece(ids("abcd"), "abcd", FinishReason.LENGTH)


def test_a_stop_string_before_the_verifiers_own_end_wins() -> None:
    output = OutputText(TOKENIZER, ("b",))
    assert output.push(ids("abc"), FinishReason.LENGTH) == Piece(ids("ab"), "a", FinishReason.STOP)


@given(st.text("abc", max_size=30), st.lists(st.integers(1, 6), min_size=1), st.text("abc", min_size=1, max_size=3))
def test_however_the_output_is_cut_the_client_sees_the_same(text: str, cuts: list[int], stop: str) -> None:
    output, shown, kept, rest, finish = OutputText(TOKENIZER, (stop,)), "", "", text, None
    while rest and finish is None:
        size = cuts[len(rest) % len(cuts)]
        last = FinishReason.LENGTH if len(rest) <= size else None
        piece = output.push(ids(rest[:size]), last)
        shown, finish, rest = shown + piece.text, piece.finish, rest[size:]
        kept += TOKENIZER.decode(piece.token_ids)
    place = text.find(stop)
    assert shown == (text if place < 0 else text[:place])
    assert kept == (text if place < 0 else text[: place + len(stop)])
    assert finish is (None if not text else FinishReason.LENGTH if place < 0 else FinishReason.STOP)


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_nothing_is_lost_between_pieces(num_tokens: int) -> None:
    output = OutputText(TOKENIZER, ("never",))
    pieces = [output.push(ids(LETTERS[start : start + num_tokens]), None) for start in range(0, 30, num_tokens)]
    assert "".join(piece.text for piece in pieces) == LETTERS[:30]
