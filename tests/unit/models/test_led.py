"""What rank 0 tells the others, without others."""

from __future__ import annotations

from paceline.models.led import pack_rows, unpack_rows
from paceline.models.rows import LAST, Segment, lay_out


def test_rows_arrive_as_they_were_laid_out() -> None:
    segments = [Segment(0, 3, (7, 8, 9), 2), Segment(2, 0, (4,), 0)]
    rows = lay_out(segments, spare=4, min_rows=8, capacity=64, taps=(1, LAST))
    heard = unpack_rows(pack_rows(rows))
    for one, other in ((heard.token_ids, rows.token_ids), (heard.keep, rows.keep)):
        assert one.tolist() == other.tolist()
    for one, other in zip(heard.places.homes, rows.places.homes, strict=True):
        assert one.tolist() == other.tolist()
    assert heard.taps == rows.taps
    assert heard.places.beside is None


def test_what_stands_beside_a_draft_arrives_with_its_home() -> None:
    segments = [Segment(0, 3, (7, 8, 9), 2, ((4, 5), (5, 6))), Segment(1, 2, (1, 2), 2, ((3, 9),))]
    rows = lay_out(segments, spare=4, min_rows=1, capacity=64)
    heard = unpack_rows(pack_rows(rows))
    assert [one.tolist() for one in heard.places.homes] == [one.tolist() for one in rows.places.homes]
    for mine, theirs in zip(heard.places.turns, rows.places.turns, strict=True):
        assert [one.tolist() for one in mine.places] == [one.tolist() for one in theirs.places]
        assert mine.firsts.tolist() == theirs.firsts.tolist()
