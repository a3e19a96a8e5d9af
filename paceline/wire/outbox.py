"""What waits for a stream: sent together as soon as the stream takes it, and never more than what still matters.

Bounded by coalescing: a newer draft, credit or tap replaces the waiting one of its session (what a draft said beside
its path is kept), a Close drops them and frames of keys and values, and towards drafters contiguous commits become one,
behind the frames of each. Commits to a coordinator are bounded by its credit, frames by the context.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Generic, TypeVar

from paceline.core.types import Close, Commit, Credit, Draft, KvFrame, SessionSpec, Tap
from paceline.speculation import lookahead
from paceline.speculation.features import join

EventT = TypeVar("EventT")

MAX_CONTEXT = 262_144
"""Context tokens of sessions opened by one message: at most 5 bytes each, so that it stays far below 4 MiB."""
TOKEN_BYTES = 5
"""A token id takes at most so many bytes; hidden states count by their size."""


class Outbox(Generic[EventT]):
    """Many writers in one event loop, one reader."""

    def __init__(self, *, merge_commits: bool = False) -> None:
        self._waiting: dict[object, EventT] = {}
        self._counter = 0
        self._merge_commits = merge_commits
        self._last_commit: dict[str, object] = {}
        self._ready = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: EventT) -> None:
        """Queue without waiting; ignored after ``close``."""
        if self._is_closed:
            return
        if isinstance(event, Close):
            for kind in (Draft, Credit, Tap):
                self._waiting.pop((kind, event.session), None)
            for key in [key for key, one in self._waiting.items() if _is_frame_of(one, event.session)]:
                del self._waiting[key]
        if isinstance(event, Close | SessionSpec):
            self._last_commit.pop(event.session, None)
        event = self._joined(event)
        key = self._key(event)
        if key is not None:
            self._waiting[key] = event
        if self._merge_commits and isinstance(event, KvFrame):
            self._let_pass(event)
        self._ready.set()

    def _let_pass(self, frame: KvFrame) -> None:
        """A commit that waits may become one with the commit that the frame comes before: it waits behind both."""
        before = self._waiting.pop(self._last_commit.get(frame.session), None)
        if before is not None:
            self._waiting[self._key(before)] = before

    def _joined(self, event: EventT) -> EventT:
        """A draft with what a waiting one says beside its path: whoever looks ahead says everything once."""
        before = self._waiting.get((Draft, event.session)) if isinstance(event, Draft) else None
        if not isinstance(event, Draft) or not isinstance(before, Draft):
            return event
        both = lookahead.join(before, event)
        return replace(event, token_ids=both.token_ids, confidences=both.confidences, branches=both.branches)

    def _key(self, event: EventT) -> object:
        """Where the event waits; None when it was merged into one that already does."""
        if isinstance(event, Draft | Credit | Tap):
            key = (type(event), event.session)
            self._waiting.pop(key, None)
            return key
        if self._merge_commits and isinstance(event, Commit) and self._merged(event):
            return None
        self._counter += 1
        if self._merge_commits and isinstance(event, Commit):
            self._last_commit[event.session] = self._counter
        return self._counter

    def _merged(self, event: Commit) -> bool:
        key = self._last_commit.get(event.session)
        before = self._waiting.get(key)
        if not isinstance(before, Commit) or before.start + len(before.token_ids) != event.start:
            return False
        merged = replace(
            before,
            token_ids=before.token_ids + event.token_ids,
            finish=event.finish,
            features=join(before.features, event.features),
        )
        self._waiting[key] = merged
        return True

    def close(self) -> None:
        """End ``batches`` once what waits was taken."""
        self._is_closed = True
        self._ready.set()

    async def batches(self) -> AsyncGenerator[list[EventT]]:
        """Everything that waits, again and again, until closed."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._waiting:
                yield self._take()
            if self._is_closed:
                return

    def _take(self) -> list[EventT]:
        """All that waits, but no more contexts and hidden states than fit one message; the rest goes in the next."""
        batch: list[EventT] = []
        num_bytes = 0
        for key, event in list(self._waiting.items()):
            num_bytes += _weight(event)
            if batch and num_bytes > MAX_CONTEXT * TOKEN_BYTES:
                return batch
            batch.append(self._waiting.pop(key))
        self._last_commit.clear()
        return batch


def _weight(event: object) -> int:
    """Bytes of what makes messages large: after an outage many sessions open at once, and prompts have many rows."""
    if isinstance(event, SessionSpec):
        return len(event.context) * TOKEN_BYTES
    if isinstance(event, Commit) and event.features is not None:
        return len(event.features.bf16)
    return len(event.rows.bf16) if isinstance(event, KvFrame) else 0


def _is_frame_of(event: object, session: str) -> bool:
    return isinstance(event, KvFrame) and event.session == session
