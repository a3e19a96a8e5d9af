"""One suite for every link: in memory, and over gRPC to a real server, towards real runtimes on the hash model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from support.peers import Peer, drafting, reference, spec, verifying

from paceline.core.errors import Unavailable
from paceline.core.types import Close, Commit, Credit, Draft, Drain, FinishReason, Refused, SessionSpec, Tokens
from paceline.speculation.draft_tree import DraftTree


@pytest.fixture(params=["memory", "grpc"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def of(session: str, events: Sequence[Any]) -> list[Any]:
    return [event for event in events if event.session == session]


def ends(session: str) -> Any:
    """The last commit of a session."""
    return lambda event: isinstance(event, Commit) and event.session == session and event.finish is not None


def text(commits: Sequence[Commit], start: int) -> Tokens:
    """Tokens of commits that must be contiguous from ``start`` on."""
    tokens: list[int] = []
    for commit in commits:
        assert commit.start == start + len(tokens)
        tokens += commit.token_ids
    return tuple(tokens)


async def test_a_verifier_says_what_it_serves(way: str) -> None:
    async with verifying(way) as peer:
        assert await peer.link.describe() == peer.runtime.info


async def test_a_drafter_says_what_it_is(way: str) -> None:
    async with drafting(way) as peer:
        assert await peer.link.describe() == peer.runtime.info


async def test_the_commits_of_a_session_are_the_targets_own_text_to_the_last_token(way: str) -> None:
    one = spec("s")
    async with verifying(way) as peer:
        peer.link.send(one)
        commits = await peer.read(ends("s"))
    assert text(commits, 3) == reference(one, 12)
    assert [commit.finish for commit in commits] == [None] * (len(commits) - 1) + [FinishReason.LENGTH]


@pytest.mark.parametrize("right", range(5))
async def test_a_draft_saves_as_many_steps_as_its_first_tokens_are_right(way: str, right: int) -> None:
    one = spec("s")
    truth = reference(one, 12)
    guess = tuple(token if index < right else (token + 1) % 1000 for index, token in enumerate(truth[:4]))
    async with verifying(way) as peer:
        peer.link.send(one)
        peer.link.send(Draft("s", 3, guess))
        commits = await peer.read(ends("s"))
    assert text(commits, 3) == truth
    assert (commits[0].drafted, commits[0].accepted, len(commits[0].token_ids)) == (4, right, right + 1)


async def test_many_sessions_share_one_stream_and_none_disturbs_another(way: str) -> None:
    sessions = [spec(f"s{index}", tuple(range(1, index + 2)), max_tokens=5 + index) for index in range(8)]
    async with verifying(way) as peer:
        for one in sessions:
            peer.link.send(one)
        events: list[Any] = []
        while sum(event.finish is not None for event in events) < len(sessions):
            events += await anext(peer.events)
    for index, one in enumerate(sessions):
        assert text(of(one.session, events), index + 1) == reference(one, 5 + index)


async def test_a_session_that_is_not_served_is_refused_by_name_and_the_stream_lives_on(way: str) -> None:
    async with verifying(way) as peer:
        peer.link.send(spec("odd", numerics_id="another"))
        peer.link.send(spec("s"))
        events = await peer.read(ends("s"))
    (refusal,) = of("odd", events)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.retryable) == ("FAILED_PRECONDITION", False)
    assert "numerics id another" in refusal.message
    assert text(of("s", events), 3) == reference(spec("s"), 12)


async def test_commits_stop_where_the_credit_ends_and_go_on_with_more(way: str) -> None:
    one = spec("s")
    async with verifying(way) as peer:
        peer.link.send(one)
        peer.link.send(Credit("s", 3 + 5))
        commits = await peer.read(lambda event: event.start + len(event.token_ids) >= 3 + 5)
        assert text(commits, 3) == reference(one, 5)
        peer.link.send(Credit("s", 3 + 12))
        commits += await peer.read(ends("s"))
    assert text(commits, 3) == reference(one, 12)


async def test_a_closed_session_is_left_alone_and_its_name_is_free_again(way: str) -> None:
    async with verifying(way) as peer:
        peer.link.send(spec("s", max_tokens=2000))
        await peer.read(lambda event: event.session == "s")
        peer.link.send(Close("s"))
        peer.link.send(spec("s", (9,), max_tokens=4))
        commits = await peer.read(ends("s"))
        await peer.runtime.wait_idle()
    assert text([commit for commit in commits if commit.start < 5][-4:], 1) == reference(spec("s", (9,)), 4)


async def test_closing_the_link_ends_its_events_and_the_sessions_of_its_peer(way: str) -> None:
    async with verifying(way) as peer:
        peer.link.send(spec("s", max_tokens=2000))
        await peer.read(lambda event: event.session == "s")
        await peer.link.close()
        await drain(peer.events)
        await peer.runtime.wait_idle()
        with pytest.raises(Unavailable, match="closed"):
            await peer.link.describe()


async def test_leaving_the_events_ends_the_sessions_of_the_peer(way: str) -> None:
    async with verifying(way) as peer:
        peer.link.send(spec("s", max_tokens=2000))
        await peer.read(lambda event: event.session == "s")
        await peer.events.aclose()  # type: ignore[attr-defined]
        await peer.runtime.wait_idle()


async def test_a_verifier_that_drains_says_so_and_takes_no_more(way: str) -> None:
    async with verifying(way) as peer:
        peer.link.send(spec("old"))
        await peer.read(lambda event: event.session == "old")
        peer.runtime.drain("upgrade")
        events = await peer.read(lambda event: isinstance(event, Drain))
        assert Drain("upgrade") in events
        peer.link.send(spec("new"))
        (refusal,) = [
            one for one in await peer.read(lambda event: isinstance(event, Refused)) if isinstance(one, Refused)
        ]
    assert (refusal.session, refusal.code, refusal.retryable) == ("new", "UNAVAILABLE", True)


class Heard:
    """What a verifier makes of a session's drafts."""

    def __init__(self, session: SessionSpec) -> None:
        self._session = session.session
        self._tree = DraftTree(session.context)

    def commit(self, *tokens: int) -> None:
        self._tree.advance(tokens)

    def is_full(self, event: Any) -> bool:
        """Whether the window is full once it has heard this too."""
        if event.session == self._session:
            self._tree.add(event)
        return len(self.path) == 16

    @property
    def path(self) -> Tokens:
        return self._tree.path(99).token_ids


async def test_a_drafter_runs_ahead_to_the_end_of_its_window(way: str) -> None:
    one = spec("s", max_tokens=100)
    heard = Heard(one)
    async with drafting(way) as peer:
        peer.link.send(one)
        await peer.read(heard.is_full)
    assert heard.path == reference(one, 16)


async def test_a_commit_that_agrees_moves_the_window_on(way: str) -> None:
    one = spec("s", max_tokens=100)
    truth, heard = reference(one, 24), Heard(one)
    async with drafting(way) as peer:
        peer.link.send(one)
        await peer.read(heard.is_full)
        peer.link.send(Commit("s", 3, truth[:3]))
        peer.link.send(Commit("s", 6, truth[3:8]))
        heard.commit(*truth[:8])
        await peer.read(heard.is_full)
    assert heard.path == truth[8:24]


async def test_a_commit_that_disagrees_turns_the_drafter_round(way: str) -> None:
    one = spec("s", max_tokens=100)
    other, heard = (reference(one, 1)[0] + 1) % 1000, Heard(one)
    async with drafting(way) as peer:
        peer.link.send(one)
        await peer.read(heard.is_full)
        peer.link.send(Commit("s", 3, (other,)))
        heard.commit(other)
        await peer.read(heard.is_full)
    assert heard.path == reference(spec("s", (1, 2, 3, other), prompt_length=3), 16)


async def test_a_drafter_forgets_a_closed_session_and_serves_the_others(way: str) -> None:
    other, again = spec("s", (4, 5), max_tokens=100), spec("gone", (9,), max_tokens=100)
    heard = Heard(again)
    async with drafting(way) as peer:
        peer.link.send(spec("gone", max_tokens=100))
        peer.link.send(other)
        await peer.read(Heard(other).is_full)
        peer.link.send(Close("gone"))
        peer.link.send(again)
        await peer.read(heard.is_full)
    assert heard.path == reference(again, 16)


async def relay(verifier: Peer, drafter: Peer, session: str) -> list[Commit]:
    """What a coordinator does: commits to the drafter, drafts to the verifier, until the session has ended."""

    async def forward() -> None:
        async for batch in drafter.events:
            for draft in batch:
                verifier.link.send(draft)

    commits: list[Commit] = []
    forwarding = asyncio.create_task(forward())
    while not commits or commits[-1].finish is None:
        for commit in await anext(verifier.events):
            commits.append(commit)
            drafter.link.send(commit)
    forwarding.cancel()
    with suppress(asyncio.CancelledError):
        await forwarding
    return commits


@pytest.mark.parametrize("agreement", [1.0, 0.6, 0.0])
async def test_with_any_drafter_the_text_stays_the_same_and_a_good_one_saves_steps(way: str, agreement: float) -> None:
    one = spec("s", max_tokens=60, max_draft=8)
    async with verifying(way) as verifier, drafting(way, agreement) as drafter:
        drafter.link.send(one)
        first = await drafter.read(lambda event: isinstance(event, Draft))
        verifier.link.send(one)
        verifier.link.send(first[-1])
        commits = await relay(verifier, drafter, "s")
    assert text(commits, 3) == reference(one, 60)
    accepted = sum(commit.accepted for commit in commits)
    assert len(commits) == 60 - accepted
    assert (accepted > 0) == (agreement > 0)


async def drain(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize("side", [verifying, drafting])
async def test_a_peer_whose_process_is_gone_is_unavailable_to_readers_and_to_describe(side: Any) -> None:
    async with side("grpc") as peer:
        peer.link.send(spec("s", max_tokens=2000))
        await peer.read(lambda event: event.session == "s")
        await peer.lose()
        with pytest.raises(Unavailable):
            await drain(peer.events)
        with pytest.raises(Unavailable, match="Can't reach"):
            await peer.link.describe()
