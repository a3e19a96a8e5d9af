"""Two keys per session that nobody can forge, and tokens in four bytes each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.store.keys import keys, pack, unpack


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_tokens_come_back_as_they_were(tokens: list[int]) -> None:
    data = pack(tuple(tokens))
    assert len(data) == 4 * len(tokens)
    assert unpack(data) == tuple(tokens)


def test_tokens_are_little_endian_whatever_the_machine_is() -> None:
    assert pack((1, 0x0A0B0C0D)) == bytes([1, 0, 0, 0, 0x0D, 0x0C, 0x0B, 0x0A])


def test_both_keys_of_a_session_live_on_one_shard() -> None:
    assert keys("a.B-c_9") == ("pl:{a.B-c_9}:h", "pl:{a.B-c_9}:t")


ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@given(st.text(max_size=70) | st.text("aZ09._-", min_size=60, max_size=68))
def test_an_id_of_1_to_64_harmless_characters_is_taken_and_any_other_is_refused(session: str) -> None:
    if 1 <= len(session) <= 64 and set(session) <= ALLOWED:
        assert keys(session) == (f"pl:{{{session}}}:h", f"pl:{{{session}}}:t")
    else:
        with pytest.raises(InvalidRequest, match=r"^session: "):
            keys(session)
