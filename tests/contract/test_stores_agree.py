"""Whatever is asked in whatever order, both stores give the same replies and hold the same sessions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from paceline.core.errors import Diverged, PacelineError
from paceline.core.ports import NewSession, SessionRecord
from paceline.core.types import FinishReason
from paceline.store.memory import MemoryStore
from paceline.store.redis import RedisStore

TRUTH = (7, 0, 4_294_967_295, 12, 12, 3, 99, 1)
"""What honest owners write: the same tokens for the same places."""
KEY = re.compile(rb"pl:\{(one|two)\}:[ht]")

sessions = st.sampled_from(["one", "two"])
epochs = st.sampled_from([1, 1, 1, 2, 0])
nonces = st.sampled_from(["mine", "mine", "mine", "stale"])
finishes = st.sampled_from([None, None, None, *FinishReason])


class Stores(RuleBasedStateMachine):
    """Six tokens fit a session, so that limits are reached."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.runner = asyncio.Runner()
        self.memory = MemoryStore(lambda: self.now)
        self.redis = self.runner.run(RedisStore.connect(self.url))
        self.runner.run(self.redis._client.flushall())
        self.seen: dict[str, SessionRecord] = {}

    def teardown(self) -> None:
        self.runner.run(self.redis.close())
        self.runner.close()

    def outcome(self, call: Coroutine[Any, Any, Any]) -> object:
        try:
            return self.runner.run(call)
        except PacelineError as error:
            return type(error), str(error)

    def both(self, method: str, *args: Any, **kwargs: Any) -> object:
        replies = [self.outcome(getattr(store, method)(*args, **kwargs)) for store in (self.memory, self.redis)]
        assert replies[0] == replies[1]
        return replies[0]

    @rule(session=sessions, fingerprint=st.sampled_from(["same", "same", "other"]))
    def create(self, session: str, fingerprint: str) -> None:
        self.both("create", NewSession(session, fingerprint, "me", "mine", 6, 7, "m", "n", (1, 2)))

    @rule(
        session=sessions, epoch=epochs, nonce=nonces, base=st.integers(0, 7), count=st.integers(0, 4), finish=finishes
    )
    def commit_truth(
        self, session: str, epoch: int, nonce: str, base: int, count: int, finish: FinishReason | None
    ) -> None:
        tokens = TRUTH[base : base + count]
        self.both("commit", session, epoch, nonce, base=base, tokens=tokens, finish=finish)

    @rule(session=sessions, count=st.integers(0, 3), finish=finishes)
    def commit_next(self, session: str, count: int, finish: FinishReason | None) -> None:
        record = self.seen.get(session)
        base = len(record.tokens) if record else 0
        tokens = TRUTH[base : base + count]
        self.both("commit", session, record.epoch if record else 1, "mine", base=base, tokens=tokens, finish=finish)

    @rule(session=sessions, base=st.integers(0, 5), more=st.integers(0, 2), epoch=epochs)
    def commit_another_token(self, session: str, base: int, more: int, epoch: int) -> None:
        known = self.seen[session].tokens[base:] if session in self.seen else ()
        if known:
            tokens = (known[0] ^ 1, *known[1:], *TRUTH[:more])
            reply = self.both("commit", session, epoch, "mine", base=base, tokens=tokens, finish=None)
            assert isinstance(reply, tuple)
            assert reply[0] is Diverged

    @rule(session=sessions, reason=st.sampled_from(["", "enough"]))
    def cancel(self, session: str, reason: str) -> None:
        self.both("cancel", session, reason)

    @rule()
    def an_hour_and_more_goes_by(self) -> None:
        self.now += 4000.0
        self.runner.run(self.redis._client.flushall())
        self.seen.clear()

    @invariant()
    def they_hold_the_same_and_never_unsay_anything(self) -> None:
        for session in ("one", "two"):
            record = self.both("read", session)
            before = self.seen.get(session)
            if not isinstance(record, SessionRecord):
                assert before is None
                continue
            assert record.tokens == TRUTH[: len(record.tokens)]
            assert len(record.tokens) <= record.max_tokens
            if before is not None:
                assert record.tokens[: len(before.tokens)] == before.tokens
                assert record.epoch >= before.epoch
                assert before.state == "A" or record == before
            self.seen[session] = record

    @invariant()
    def every_key_has_our_name_and_an_end(self) -> None:
        client = self.redis._client
        for name in self.runner.run(client.keys("*")):
            assert KEY.fullmatch(name)
            assert 0 < self.runner.run(client.pttl(name)) <= 3_600_000


def test_memory_and_redis_agree_on_every_sequence_of_calls(valkey: str) -> None:
    Stores.url = valkey
    run_state_machine_as_test(Stores, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
