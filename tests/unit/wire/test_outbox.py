"""What waits together travels together, and only what still matters: the rules of coalescing, and their bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.core.types import (
    Close,
    Commit,
    Credit,
    Draft,
    Drain,
    FeatureFrame,
    FinishReason,
    KvFrame,
    Refused,
    SamplingParams,
    SessionSpec,
    StopRules,
    Tap,
)
from paceline.speculation.features import MAX_FRAME_BYTES
from paceline.wire.outbox import MAX_CONTEXT, TOKEN_BYTES, Outbox

sessions = st.sampled_from(["a", "b", "c"])
drafts = st.builds(Draft, sessions, base=st.integers(0, 9), token_ids=st.just((1,)))
credits = st.builds(Credit, sessions, st.integers(0, 9))
taps = st.builds(Tap, sessions, st.just((-1,)), st.integers(1, 9))
closes = st.builds(Close, sessions)
others = st.builds(Refused, sessions, st.just("X"), st.text(max_size=2), st.booleans()) | st.builds(Drain)


def spec(session: str, length: int = 1) -> SessionSpec:
    return SessionSpec(session, (7,) * length, 1, SamplingParams(), StopRules(1))


def sent(events: Sequence[Any], *, merge_commits: bool = False) -> list[Any]:
    """All that a reader gets who comes after the last event, in one list."""
    return [event for batch in batches(events, merge_commits=merge_commits) for event in batch]


def batches(events: Sequence[Any], *, merge_commits: bool = False) -> list[list[Any]]:
    outbox: Outbox[Any] = Outbox(merge_commits=merge_commits)
    for event in events:
        outbox.put(event)
    outbox.close()

    async def read() -> list[list[Any]]:
        return [batch async for batch in outbox.batches()]

    return asyncio.run(read())


def is_last_of_its_kind(events: Sequence[Any], index: int) -> bool:
    """No newer one of its session, and no Close, came behind this draft or credit."""
    event = events[index]
    return not any(
        isinstance(later, type(event) | Close) and later.session == event.session for later in events[index + 1 :]
    )


@given(st.lists(drafts | credits | taps | closes | others, max_size=25))
def test_of_drafts_and_credits_the_newest_of_each_session_is_sent_and_all_else_as_it_came(events: list[Any]) -> None:
    expected = [
        event
        for index, event in enumerate(events)
        if not isinstance(event, Draft | Credit | Tap) or is_last_of_its_kind(events, index)
    ]
    assert sent(events) == expected


@given(st.lists(drafts | credits | taps, max_size=60))
def test_what_waits_is_bounded_by_the_sessions_however_slow_the_reader(events: list[Any]) -> None:
    outbox: Outbox[Any] = Outbox()
    for event in events:
        outbox.put(event)
    assert len(outbox) <= 9


@st.composite
def commit_streams(draw: st.DrawFn) -> list[Any]:
    """Contiguous commits of three sessions, interleaved; now and then a gap, a closing, a reopening or the end."""
    events: list[Any] = []
    at, over = dict.fromkeys("abc", 0), set[str]()
    for session in draw(st.lists(sessions, max_size=25)):
        kind = (
            "open" if session in over else draw(st.sampled_from(["commit", "commit", "commit", "gap", "close", "open"]))
        )
        if kind == "close":
            events.append(Close(session))
        elif kind == "open":
            events.append(spec(session, at[session] + 1))
            over.discard(session)
        else:
            start, count = at[session] + (kind == "gap"), draw(st.integers(1, 3))
            at[session] = start + count
            finish = draw(st.sampled_from([None, None, FinishReason.STOP]))
            over |= {session} if finish else set()
            events.append(Commit(session, start, tuple(range(start, start + count)), finish=finish))
    return events


def pieces(events: Sequence[Any]) -> dict[str, list[Any]]:
    """Per session: openings, closings and single tokens with their positions, so that cuts make no difference."""
    out: dict[str, list[Any]] = {}
    for event in events:
        if isinstance(event, Commit):
            row: list[Any] = [(event.start + index, token) for index, token in enumerate(event.token_ids)]
            row += [event.finish] if event.finish else []
        else:
            row = [event]
        out.setdefault(event.session, []).extend(row)
    return out


@given(commit_streams())
def test_merged_commits_say_what_the_single_ones_said_in_the_same_order_within_each_session(events: list[Any]) -> None:
    assert pieces(sent(events, merge_commits=True)) == pieces(events)


@given(st.lists(st.tuples(sessions, st.integers(1, 3)), max_size=30))
def test_contiguous_commits_of_a_session_become_one(parts: list[tuple[str, int]]) -> None:
    at = dict.fromkeys("abc", 5)
    events = []
    for session, count in parts:
        events.append(Commit(session, at[session], tuple(range(count))))
        at[session] += count
    merged = sent(events, merge_commits=True)
    assert [event.session for event in merged] == list(dict.fromkeys(session for session, _ in parts))
    assert all(event.start == 5 and len(event.token_ids) == at[event.session] - 5 for event in merged)


def test_a_merged_commit_keeps_start_tokens_and_finish() -> None:
    merged = sent([Commit("a", 3, (1, 2)), Commit("a", 5, (9,), finish=FinishReason.LENGTH)], merge_commits=True)
    assert merged == [Commit("a", 3, (1, 2, 9), finish=FinishReason.LENGTH)]


def test_a_commit_behind_a_reopening_is_not_moved_before_it() -> None:
    events = [Commit("a", 3, (1, 2)), spec("a", 5), Commit("a", 5, (9,))]
    assert sent(events, merge_commits=True) == events


def test_towards_a_coordinator_every_commit_stays_as_it_is() -> None:
    events = [Commit("a", 3, (1, 2)), Commit("a", 5, (9,))]
    assert sent(events) == events


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([MAX_CONTEXT // 2, MAX_CONTEXT // 2], [2]),
        ([MAX_CONTEXT // 2, MAX_CONTEXT // 2 + 1], [1, 1]),
        ([MAX_CONTEXT * 2, 1, 1], [1, 2]),
        ([1, MAX_CONTEXT * 2, 1], [1, 1, 1]),
    ],
)
def test_many_long_sessions_that_open_at_once_are_spread_over_messages(lengths: list[int], expected: list[int]) -> None:
    specs = [spec(str(index), length) for index, length in enumerate(lengths)]
    got = batches(specs)
    assert [len(batch) for batch in got] == expected
    assert [event for batch in got for event in batch] == specs


async def test_a_waiting_reader_gets_what_comes_at_once_and_what_came_meanwhile_together() -> None:
    outbox: Outbox[Any] = Outbox()
    reader = outbox.batches()
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(Close("a"))
    assert await waiting == [Close("a")]
    outbox.put(Close("b"))
    outbox.put(Close("c"))
    assert await anext(reader) == [Close("b"), Close("c")]
    await reader.aclose()


async def test_a_closed_outbox_hands_out_what_waits_takes_no_more_and_ends() -> None:
    outbox: Outbox[Any] = Outbox()
    outbox.put(Close("a"))
    outbox.close()
    outbox.put(Close("b"))
    assert [batch async for batch in outbox.batches()] == [[Close("a")]]


async def test_closing_ends_a_reader_that_waits() -> None:
    outbox: Outbox[Any] = Outbox()
    waiting = asyncio.ensure_future(anext(outbox.batches(), None))
    await asyncio.sleep(0)
    outbox.close()
    assert await waiting is None


def with_rows(session: str, start: int, count: int, row_bytes: int = 4) -> Commit:
    """``count`` tokens, and the rows of as many positions up to the last but one."""
    frame = FeatureFrame(
        start - 1, count, b"".join(at.to_bytes(row_bytes, "little") for at in range(start, start + count))
    )
    return Commit(session, start, (7,) * count, features=frame)


def test_hidden_states_of_commits_that_are_merged_are_merged_too() -> None:
    events = [with_rows("a", 5, 2), with_rows("b", 9, 1), with_rows("a", 7, 3)]
    assert sent(events, merge_commits=True) == [with_rows("a", 5, 5), with_rows("b", 9, 1)]


def test_merged_hidden_states_never_outgrow_a_message() -> None:
    row_bytes = MAX_FRAME_BYTES // 8
    (merged,) = sent([with_rows("a", 5 + at, 1, row_bytes) for at in range(30)], merge_commits=True)
    assert merged.token_ids == (7,) * 30
    assert merged.features == with_rows("a", 27, 8, row_bytes).features


def test_frames_of_many_sessions_travel_in_several_messages() -> None:
    wide = MAX_CONTEXT * TOKEN_BYTES // 3
    taken = batches([with_rows(f"s{at}", 5, 1, wide) for at in range(8)])
    assert [len(batch) for batch in taken] == [3, 3, 2]
    assert [commit.session for batch in taken for commit in batch] == [f"s{at}" for at in range(8)]


def kv(session: str, start: int, num_bytes: int = 4) -> KvFrame:
    return KvFrame(session, "full_attention", FeatureFrame(start, 1, bytes(num_bytes)))


def test_a_merged_commit_comes_behind_the_keys_and_values_of_both() -> None:
    events = [kv("a", 4), Commit("a", 5, (7,)), kv("b", 4), kv("a", 5), Commit("a", 6, (8,)), Commit("b", 5, (9,))]
    assert sent(events, merge_commits=True) == [
        kv("a", 4),
        kv("b", 4),
        kv("a", 5),
        Commit("a", 5, (7, 8)),
        Commit("b", 5, (9,)),
    ]
    assert sent(events) == events


def test_keys_and_values_never_come_behind_the_commit_that_needs_them_nor_before_the_opening() -> None:
    events = [kv("a", 4), Commit("a", 5, (7,)), spec("a", 6), kv("a", 0), Commit("a", 6, (8,))]
    assert sent(events, merge_commits=True) == events


def test_whoever_leaves_gets_no_more_keys_and_values() -> None:
    assert sent([kv("a", 4), kv("b", 4), Close("a")]) == [kv("b", 4), Close("a")]


def test_a_whole_copy_travels_in_several_messages() -> None:
    third = MAX_CONTEXT * TOKEN_BYTES // 3
    taken = batches([*(kv("a", at, third) for at in range(4)), kv("a", 4, MAX_FRAME_BYTES), Commit("a", 5, (7,))])
    assert [len(batch) for batch in taken] == [3, 1, 1, 1]
    assert [type(event) for batch in taken for event in batch] == [KvFrame] * 5 + [Commit]
