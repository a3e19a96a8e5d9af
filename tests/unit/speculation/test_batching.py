"""Steps: decoding first, prefill in fair chunks, drafts with what is left; nobody starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.errors import InvalidRequest
from paceline.core.types import (
    Alternative,
    Branch,
    Draft,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepOutcome,
    StepTimings,
    StopRules,
)
from paceline.speculation.batching import DECODE_ROWS, LEAST_PREFILL, PREFILL_SHARE, Batcher, Limits
from paceline.speculation.draft_length import StepCost, lengthen
from paceline.speculation.session import VerifierSession


def make(name: str, prompt: int, max_draft: int = 8, min_draft: int = 0, tenant: str = "") -> VerifierSession:
    spec = SessionSpec(
        name,
        (1,) * prompt,
        prompt,
        SamplingParams(),
        StopRules(5_000),
        max_draft=max_draft,
        min_draft=min_draft,
        tenant=tenant,
    )
    return VerifierSession(spec, max_context=10_000, vocab_size=10)


def step(batcher: Batcher, sessions: list[VerifierSession]) -> list[StepItem]:
    """Plan and run; the target always says 1, and so do all drafts."""
    plan = batcher.plan([one for one in sessions if one.is_ready], StepCost())
    for session, item in plan:
        tokens = (1,) * (item.num_draft + 1) if item.sample else ()
        session.apply(StepOutcome(item.session, tokens, item.num_draft), StepTimings())
    return [item for _, item in plan]


def rows(items: list[StepItem]) -> dict[str, int]:
    return {item.session: len(item.tokens) for item in items}


def rows_of_many_steps(limits: Limits, sessions: list[VerifierSession], steps: int) -> Counter[str]:
    batcher, total = Batcher(limits), Counter[str]()
    for _ in range(steps):
        total.update(rows(step(batcher, sessions)))
    return total


# --- decoding and prefill --------------------------------------------------------------------------------------------


def test_decoding_sessions_are_never_kept_waiting_by_a_long_prompt() -> None:
    batcher = Batcher(Limits(64, 32))
    sessions = [make("long", 500), make("short", 4)]
    steps = [rows(step(batcher, sessions)) for _ in range(10)]
    assert steps == [{"short": 4, "long": 32}] + [{"short": 1, "long": 32}] * 9
    assert list(steps[0]) == ["short", "long"]


def test_prompts_take_turns_when_the_budget_is_short() -> None:
    batcher = Batcher(Limits(32, 32))
    sessions = [make("a", 100), make("b", 100), make("c", 100)]
    assert [list(rows(step(batcher, sessions))) for _ in range(6)] == [["a"], ["b"], ["c"]] * 2


def test_decoding_sessions_take_turns_when_the_budget_is_short() -> None:
    batcher = Batcher(Limits(2, 32))
    sessions = [make(name, 1) for name in "abc"]
    assert [list(rows(step(batcher, sessions))) for _ in range(3)] == [["a", "b"], ["c", "a"], ["b", "c"]]


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 40])
def test_a_prompt_gets_its_share_of_the_rows_however_many_sessions_decode(budget: int) -> None:
    decoding = [make(str(index), 1, max_draft=0) for index in range(50)]
    total = rows_of_many_steps(Limits(budget, 32), [*decoding, make("prompt", 1_000)], 40)
    assert total["prompt"] == 40 * budget * PREFILL_SHARE
    assert total.total() == 40 * budget


def test_nothing_is_kept_for_prefill_where_no_prompt_waits() -> None:
    decoding = [make(str(index), 1, max_draft=0) for index in range(20)]
    assert rows_of_many_steps(Limits(10, 32), decoding, 20) == {one.session: 10 for one in decoding}


def test_what_a_prompt_has_no_use_for_goes_to_decoding() -> None:
    batcher = Batcher(Limits(8, 1))
    sessions = [*(make(str(index), 1, max_draft=0) for index in range(20)), make("prompt", 100)]
    assert [rows(step(batcher, sessions))["prompt"] for _ in range(10)] == [1] * 10
    assert all(len(step(batcher, sessions)) == 8 for _ in range(10))


def test_what_a_prompt_had_no_use_for_is_not_owed_later() -> None:
    batcher = Batcher(Limits(8, 1))
    decoding = [make(str(index), 1, max_draft=0) for index in range(20)]
    for _ in range(20):
        step(batcher, [*decoding, make("prompt", 100)])
    prompts = [make(f"prompt {index}", 100) for index in range(20)]
    served = rows(step(batcher, [*decoding, *prompts]))
    assert sum(name.startswith("prompt") for name in served) == 8 * PREFILL_SHARE


def test_what_a_prompt_got_beyond_its_share_is_not_owed_to_it_again() -> None:
    batcher, prompt = Batcher(Limits(10, 32)), make("prompt", 500)
    assert rows(step(batcher, [prompt])) == {"prompt": 10}
    decoding = [make(str(index), 1, max_draft=0) for index in range(50)]
    assert rows(step(batcher, [*decoding, prompt]))["prompt"] == 2


@given(
    shapes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    newcomers=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    budget=st.integers(1, 12),
    chunk=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_nobody_waits_longer_than_a_few_steps_per_session_before_it_whoever_comes_later(
    shapes: list[int], newcomers: list[int], budget: int, chunk: int
) -> None:
    batcher = Batcher(Limits(budget, chunk))
    sessions: list[VerifierSession] = []
    waiting: dict[str, tuple[int, int]] = {}
    for now in range(60):
        for prompt in newcomers if now else shapes:
            sessions.append(make(str(len(sessions)), prompt, max_draft=0))
        served = rows(step(batcher, sessions))
        for one in sessions:
            since, rivals = waiting.setdefault(one.session, (now, len(sessions)))
            assert now - since <= (rivals + 1) / PREFILL_SHARE
            if one.session in served:
                waiting[one.session] = (now + 1, len(sessions))


# --- steps that those who decode can bear ----------------------------------------------------------------------------


def machine(rows: int) -> float:
    """Seconds of a step where a row costs a tenth of all weights: a processor."""
    return 0.010 + 0.001 * rows


@dataclass
class Served:
    """What a prompt of 4,000 tokens met and did, in virtual time."""

    times: list[float] = field(default_factory=list)
    """Seconds of each step until the prompt was read: what every decoding session waited for its token."""
    fewest: int = 4_000
    """Rows of the prompt in a step."""


def serve_a_long_prompt(limits: Limits, drafted: int = 0) -> Served:
    """While four sessions decode; the costs of steps are learned on the way."""
    batcher, cost, out = Batcher(limits), StepCost(), Served()
    decoding = [make(name, 1) for name in "abcd"]
    prompt = make("prompt", 4_000)
    for now in range(1_000):
        for one in decoding:
            one.add(Draft(one.session, one.position, (1,) * drafted, (0.9,) * drafted))
        plan = batcher.plan([*decoding, prompt] if now >= 20 else decoding, cost)
        rows = sum(item.num_rows for _, item in plan)
        cost.observe(rows, machine(rows))
        for session, item in plan:
            session.apply(StepOutcome(item.session, (1,) * (item.num_draft + 1) * item.sample), StepTimings())
            if session is prompt:
                out.times.append(machine(rows))
                out.fewest = min(out.fewest, item.num_committed)
        if prompt.num_pending <= DECODE_ROWS:
            return out
    raise AssertionError("the prompt was never read")


def test_whoever_decodes_waits_for_a_prompt_no_longer_than_is_bearable() -> None:
    served = serve_a_long_prompt(Limits(256, 128, slowdown=4.0))
    later = sorted(served.times[1:])  # the first step teaches what steps of that many rows cost
    assert later[int(0.99 * len(later))] <= 4.0 * machine(4)
    assert max(served.times) <= machine(256)
    assert len(served.times) <= 4_000 / 32


def test_prompts_are_read_as_fast_as_can_be_where_that_is_bearable() -> None:
    assert len(serve_a_long_prompt(Limits(256, 128, slowdown=100.0)).times) == 32


def test_a_prompt_is_read_though_nothing_would_be_bearable() -> None:
    served = serve_a_long_prompt(Limits(256, 128, slowdown=1.0))
    assert served.fewest == LEAST_PREFILL
    assert max(served.times[1:]) == machine(4 + LEAST_PREFILL)


def test_drafts_that_pay_are_checked_while_a_prompt_is_read() -> None:
    batcher, prompt, decoding = Batcher(Limits(40, 32)), make("prompt", 500), make("decoding", 1)
    decoding.add(Draft("decoding", 1, (1,) * 8, (0.98,) * 8))
    assert rows(step(batcher, [prompt, decoding])) == {"decoding": 9, "prompt": 31}


def test_drafts_leave_a_prompt_its_share() -> None:
    decoding = [make(str(index), 1) for index in range(4)]
    batcher, prompt = Batcher(Limits(32, 32)), make("prompt", 500)
    for one in decoding:
        one.add(Draft(one.session, 1, (1,) * 8, (0.98,) * 8))
    served = rows(step(batcher, [prompt, *decoding]))
    assert served["prompt"] == 32 * PREFILL_SHARE
    assert sum(served.values()) == 32


# --- tenants ---------------------------------------------------------------------------------------------------------


def test_a_tenant_with_fifty_sessions_does_not_keep_one_with_a_single_one_waiting() -> None:
    many = [make(str(index), 1, max_draft=0, tenant="many") for index in range(50)]
    total = rows_of_many_steps(Limits(10, 32), [*many, make("one", 1, max_draft=0, tenant="one")], 40)
    assert total["one"] == 40
    assert total.total() == 400


def test_tenants_share_what_there_is_for_prompts_equally() -> None:
    many = [make(str(index), 2_000, tenant="many") for index in range(50)]
    total = rows_of_many_steps(Limits(64, 64), [*many, make("one", 2_000, tenant="one")], 40)
    assert total["one"] == 64 * 40 / 2


def test_sessions_of_one_tenant_take_turns_among_themselves() -> None:
    batcher = Batcher(Limits(32, 32))
    sessions = [make(name, 100, tenant=name[0]) for name in ("a1", "a2", "b1")]
    assert [list(rows(step(batcher, sessions))) for _ in range(6)] == [["a1"], ["b1"], ["a2"], ["b1"], ["a1"], ["b1"]]


def test_drafts_count_as_rows_that_a_tenant_has_had() -> None:
    batcher, drafting, plain = Batcher(Limits(9, 32)), make("a", 1, tenant="a"), make("b", 1, tenant="b")
    drafting.add(Draft("a", 1, (1,) * 7, (0.98,) * 7))
    assert rows(step(batcher, [drafting, plain])) == {"a": 8, "b": 1}
    prompts = [make("c", 90, tenant="a"), make("d", 90, tenant="b")]
    assert rows(step(batcher, prompts)) == {"d": 9}


def test_who_comes_back_has_saved_nothing_up() -> None:
    batcher = Batcher(Limits(10, 10))
    stays, leaves = make("stays", 2_000, tenant="stays"), make("leaves", 2_000, tenant="leaves")
    step(batcher, [stays, leaves])
    for _ in range(50):
        step(batcher, [stays])
    total = Counter[str]()
    for _ in range(20):
        total.update(rows(step(batcher, [stays, leaves])))
    assert total == {"stays": 100, "leaves": 100}


def test_who_was_away_for_a_moment_is_not_forgiven_what_it_has_had() -> None:
    batcher = Batcher(Limits(10, 10))
    greedy, modest = make("greedy", 2_000, tenant="greedy"), make("modest", 2_000, tenant="modest")
    other = make("other", 2_000, tenant="other")
    step(batcher, [modest, other])
    for _ in range(10):
        step(batcher, [greedy])
    step(batcher, [modest, other])
    assert "greedy" not in {name for _ in range(9) for name in rows(step(batcher, [greedy, modest, other]))}


# --- drafts and limits -----------------------------------------------------------------------------------------------


def test_drafts_get_what_is_left_of_the_budget() -> None:
    sessions = [make(name, 1) for name in "abcd"]
    for one in sessions:
        one.add(Draft(one.session, 1, (1,) * 8, (0.98,) * 8))
    items = step(Batcher(Limits(9, 32)), sessions)
    assert [item.num_committed for item in items] == [1] * 4
    assert sum(item.num_draft for item in items) == 5


def test_a_session_whose_prompt_is_not_complete_gets_no_drafts() -> None:
    one = make("a", 40)
    one.add(Draft("a", 40, (1,) * 8, (0.98,) * 8))
    batcher = Batcher(Limits(64, 32))
    (first,), (second,) = step(batcher, [one]), step(batcher, [one])
    assert (first.num_committed, first.num_draft, first.sample) == (32, 0, False)
    assert (second.num_committed, second.num_draft, second.sample) == (8, 8, True)


def test_drafts_that_can_not_be_checked_yet_take_no_room_from_others() -> None:
    prompt, decoding = make("prompt", 40), make("decoding", 1)
    prompt.add(Draft("prompt", 40, (1,) * 8, (0.98,) * 8))
    decoding.add(Draft("decoding", 1, (1,) * 8, (0.9,) * 8))
    assert rows(step(Batcher(Limits(34, 32)), [prompt, decoding])) == {"decoding": 9, "prompt": 25}


def drafted(one: VerifierSession, length: int, budget: int = 64) -> int:
    """Draft tokens of the next step when ``length`` are there that are probably wrong."""
    one.add(Draft(one.session, one.position, (1,) * length, (0.02,) * length))
    return step(Batcher(Limits(budget, 32)), [one])[0].num_draft


def test_a_least_length_is_checked_though_it_does_not_pay() -> None:
    assert drafted(make("adaptive", 1), 8) < 4
    assert drafted(make("fixed", 1, max_draft=4, min_draft=4), 8) == 4


def test_a_least_length_asks_for_no_more_than_there_is_or_the_budget_allows() -> None:
    assert drafted(make("few", 1, min_draft=4), 2) == 2
    assert drafted(make("none", 1, min_draft=4), 0) == 0
    assert drafted(make("budget", 1, min_draft=4), 8, budget=3) == 2


@given(
    shapes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
    spare=st.integers(0, 30),
)
def test_lengthening_only_adds_and_only_as_far_as_wanted_and_allowed(shapes: list[tuple[int, int]], spare: int) -> None:
    lengths, least = [length for length, _ in shapes], [wanted for _, wanted in shapes]
    budget = sum(lengths) + spare
    out = lengthen(lengths, least, budget)
    assert sum(out) <= budget
    assert all(length <= got <= max(length, wanted) for length, wanted, got in zip(lengths, least, out, strict=True))
    full = [max(length, wanted) for length, wanted in shapes]
    assert out == full or sum(out) == budget


@given(
    shapes=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 8)), min_size=1, max_size=8),
    budget=st.integers(1, 64),
    chunk=st.integers(1, 64),
)
@settings(max_examples=100, deadline=None)
def test_no_step_exceeds_its_limits_or_idles_while_rows_are_missing(
    shapes: list[tuple[int, int]], budget: int, chunk: int
) -> None:
    batcher = Batcher(Limits(budget, chunk))
    sessions = [make(str(index), prompt) for index, (prompt, _) in enumerate(shapes)]
    for _ in range(30):
        for session, (_, drafted) in zip(sessions, shapes, strict=True):
            session.add(Draft(session.session, session.position, (1,) * drafted))
        useful = sum(min(one.num_pending, chunk) for one in sessions)
        pending = {one.session: one.num_pending for one in sessions}
        items = step(batcher, sessions)
        committed = {item.session: item.num_committed for item in items}
        assert len(committed) == len(items)
        total = sum(len(item.tokens) for item in items)
        assert total <= budget
        assert total == budget or sum(committed.values()) == useful
        for item in items:
            assert 0 < item.num_committed <= chunk
            assert item.sample == (item.num_committed == pending[item.session])
            assert item.sample or not item.num_draft


@pytest.mark.parametrize("limits", [(0, 32), (-1, 32), (32, 0), (32, 32, 0, 0.9), (32, 32, 0, float("nan"))])
def test_limits_that_let_nothing_run_are_refused(limits: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="must be at least 1"):
        Limits(*limits)


def test_sessions_with_few_missing_rows_count_as_decoding() -> None:
    sessions = [make("prefilling", DECODE_ROWS + 1), make("decoding", DECODE_ROWS)]
    assert [item.session for item in step(Batcher(Limits(64, 32)), sessions)] == ["decoding", "prefilling"]


# --- second choices --------------------------------------------------------------------------------------------------


def doubtful(name: str = "a", max_draft: int = 8) -> VerifierSession:
    """Its drafter holds two more tokens for nearly as likely as each of its own."""
    session = make(name, 1, max_draft=max_draft)
    beside = tuple(
        Branch(0, 1 + index, (token,), (chance,)) for index in range(3) for token, chance in ((2, 0.3), (3, 0.2))
    )
    session.add(Draft(name, 1, (1, 1, 1), (0.4, 0.4, 0.4), beside))
    return session


def beside(limits: Limits, *sessions: VerifierSession) -> list[tuple[int, tuple[Alternative, ...]]]:
    plan = Batcher(limits).plan(sessions, StepCost())
    return [(item.num_draft, item.alternatives) for _, item in plan]


def test_second_choices_get_rows_where_that_pays() -> None:
    ((num_draft, alternatives),) = beside(Limits(64, 32, 64), doubtful())
    assert num_draft == 3
    assert alternatives[:2] == (Alternative(0, 2), Alternative(0, 3))
    plan = Batcher(Limits(64, 32, 64)).plan([doubtful()], StepCost(row_cost=0.5))
    assert [(item.num_draft, item.alternatives) for _, item in plan] == [(1, ())]


def test_a_back_end_that_can_check_none_gets_none() -> None:
    assert beside(Limits(64, 32), doubtful()) == [(3, ())]


def test_second_choices_keep_to_budget_back_end_and_session() -> None:
    assert beside(Limits(64, 32, 1), doubtful()) == [(3, (Alternative(0, 2),))]
    assert beside(Limits(6, 32, 64), doubtful()) == [(3, (Alternative(0, 2), Alternative(0, 3)))]
    assert beside(Limits(64, 32, 64), doubtful(max_draft=4)) == [(3, (Alternative(0, 2),))]
    assert beside(Limits(64, 32, 64), doubtful(max_draft=3)) == [(3, ())]
    assert beside(Limits(64, 32, 1), doubtful("a"), doubtful("b")) == [(3, (Alternative(0, 2),)), (3, ())]
