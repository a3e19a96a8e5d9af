"""A verifier's and a drafter's session over a network that delays, doubles, loses and reorders drafts.

No asyncio, no clock: hypothesis decides what happens next. Whatever it is, exactly the reference tokens are committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.core.types import (
    Branch,
    Commit,
    Credit,
    Draft,
    DraftJob,
    FeatureFrame,
    FinishReason,
    Guess,
    Needs,
    Pace,
    SamplingParams,
    SessionSpec,
    StepItem,
    StepOutcome,
    StepTimings,
    StopRules,
    Tap,
    Tokens,
)
from paceline.speculation.batching import Batcher, Limits
from paceline.speculation.draft_length import StepCost
from paceline.speculation.drafting import DraftingSession
from paceline.speculation.session import VerifierSession

VOCAB = 5
MAX_CONTEXT = 60
SPEC = SessionSpec("s", (1, 2, 3), 3, SamplingParams(), StopRules(24), max_draft=4, window=8)


def target(context: Sequence[int]) -> int:
    return hash((len(context), *context[-4:])) % VOCAB


def row(context: Sequence[int]) -> bytes:
    """The hidden state of the last token of ``context``."""
    return (hash(tuple(context)) % 2**32).to_bytes(4, "little")


def reference(spec: SessionSpec) -> Tokens:
    context = list(spec.context)
    while len(context) < min(spec.prompt_length + spec.stops.max_tokens, MAX_CONTEXT):
        context.append(target(context))
        if context[-1] in spec.stops.stop_token_ids:
            break
    return tuple(context[len(spec.context) :])


class Backend:
    """Keeps tokens the way a model keeps KV, and knows nothing else of the context."""

    def __init__(self) -> None:
        self._cache: list[int] = []

    def step(self, item: StepItem, committed: Sequence[int]) -> StepOutcome:
        assert item.start <= len(self._cache)
        del self._cache[item.start :]
        self._cache += item.tokens
        known = item.start + item.num_committed
        assert self._cache[:known] == list(committed[:known])
        assert item.sample == (known == len(committed))
        out: list[int] = []
        for at in range(known, known + item.num_draft + 1) if item.sample else ():
            out.append(target(self._cache[:at]))
            if at == len(self._cache) or self._cache[at] != out[-1]:
                break
        accepted = max(0, len(out) - 1)
        frames = tuple(self._frame(item.start, known + accepted, tap.history) for tap in item.taps)
        return StepOutcome(item.session, tuple(out), accepted, frames)

    def _frame(self, start: int, end: int, history: int) -> FeatureFrame:
        first = max(start, end - history)
        return FeatureFrame(first, end - first, b"".join(row(self._cache[: at + 1]) for at in range(first, end)))


@dataclass
class World:
    """One request: both sessions, what is between them, and what the client has."""

    spec: SessionSpec
    random: Random
    limits: Limits
    skill: float
    """Chance that a guessed token is right."""
    stamina: float = 0.95
    """Chance that one more token is guessed."""
    confidence: float | None = None
    """Of every token; None is random, or none given at all."""
    alternatives: float = 1.0
    """Named per place, in the mean."""

    def __post_init__(self) -> None:
        self.committed = list(self.spec.context)
        self.finish: FinishReason | None = None
        self.drafts: list[Draft] = []
        self.commits: list[Commit] = []
        self.history: list[Commit] = []
        self.job: DraftJob | None = None
        self.credit: int | None = None
        self.tap = Tap("s", (-1,), self.random.randint(1, 9))
        self.handed = 0
        self.verifier_is_replaced()
        self.drafter_is_replaced()

    # --- what the parties do ---

    def verifier_steps(self) -> None:
        if self.finish is not None or not self.verifier.is_ready:
            return
        ((_, item),) = self.batcher.plan([self.verifier], StepCost())
        assert len(item.tokens) <= self.limits.token_budget
        assert item.num_draft <= self.spec.max_draft
        commit = self.verifier.apply(self.backend.step(item, self.committed), StepTimings())
        assert (commit is not None) == item.sample
        if commit is not None:
            self._take(commit)

    def _take(self, commit: Commit) -> None:
        assert commit.start == len(self.committed)
        assert commit.accepted <= commit.drafted
        self.committed += commit.token_ids
        assert self.credit is None or len(self.committed) <= self.credit
        assert self.verifier.position == len(self.committed)
        assert commit.finish is not None or self.verifier.num_pending == 1
        self.finish = commit.finish
        self.commits.append(commit)
        self.history.append(commit)

    def drafter_starts_a_guess(self) -> None:
        if self.job is None:
            count, ends = self.random.randint(1, 8), self.drafter.open_ends()
            if ends and self.random.random() < 0.8:
                self.job = self.drafter.job_at(self.random.choice(ends).tail, count)
            else:
                self.job = self.drafter.job(count)
            self._look_at_features(self.job.features if self.job else ())

    def _look_at_features(self, frames: tuple[FeatureFrame, ...]) -> None:
        """Each row is that of its committed position, and none is handed out twice."""
        for frame in frames:
            assert self.handed <= frame.start
            assert frame.end == self.drafter.position - 1 or self.finish is not None
            assert frame.num_rows <= self.tap.history
            rows = [row(self.committed[: at + 1]) for at in range(frame.start, frame.end)]
            assert frame.bf16 == b"".join(rows)
            self.handed = frame.end

    def drafter_ends_its_guess(self) -> None:
        if self.job is None:
            return
        job, self.job = self.job, None
        assert list(job.context[: job.committed]) == self.committed[: job.committed]
        tokens: list[int] = []
        while len(tokens) < job.max_tokens and self.random.random() < self.stamina:
            right = target((*job.context, *tokens))
            tokens.append(right if self.random.random() < self.skill else self.random.randrange(VOCAB))
        guess = Guess("s", tuple(tokens), self._confidences(len(tokens)), self._branches(job, len(tokens)))
        draft = self.drafter.extend(job, guess)
        if draft is not None:
            assert draft.base == self.drafter.position
            assert len(draft.token_ids) <= self.drafter.num_pending <= self.spec.window
            assert all(len(graft.token_ids) <= self.spec.window for graft in draft.grafts)
            assert draft.base + len(draft.token_ids) < self.spec.prompt_length + self.spec.stops.max_tokens
            self.drafts.append(draft)

    def _confidences(self, count: int) -> tuple[float, ...]:
        if self.confidence is not None:
            return (self.confidence,) * count
        return tuple(self.random.random() for _ in range(count)) if self.random.random() < 0.5 else ()

    def _branches(self, job: DraftJob, count: int) -> tuple[Branch, ...]:
        """Alternatives at some places, of which none, one or more go on."""
        places = range(len(job.context), len(job.context) + count)
        chosen = [place for place in places for _ in range(3) if self.random.random() < self.alternatives / 3]
        return tuple(Branch(0, place, self._some_tokens() or (0,)) for place in chosen)

    # --- what the network does ---

    def commit_arrives(self) -> None:
        if self.commits:
            self.drafter.commit(self.commits.pop(0))

    def commit_arrives_again(self) -> None:
        known = [one for one in self.history if one not in self.commits]
        if known and known[-1].start + len(known[-1].token_ids) <= self.drafter.position:
            self.drafter.commit(self.random.choice(known))

    def oldest_draft_arrives(self) -> None:
        if self.drafts:
            self._deliver(self.drafts.pop(0))

    def any_draft_arrives(self) -> None:
        if self.drafts:
            self._deliver(self.drafts.pop(self.random.randrange(len(self.drafts))))

    def draft_arrives_twice(self) -> None:
        if self.drafts:
            self._deliver(self.random.choice(self.drafts))

    def draft_is_lost(self) -> None:
        if self.drafts:
            self.drafts.pop(self.random.randrange(len(self.drafts)))

    def oracle_speaks(self) -> None:
        """Right drafts, however early or late, and far beyond the end."""
        base = self.random.randint(0, len(self.committed))
        tokens = self.committed[base:]
        while len(tokens) < len(self.committed) - base + 8:
            tokens.append(target((*self.committed[:base], *tokens)))
        self._deliver(Draft("s", base, tuple(tokens)))

    def nonsense_arrives(self) -> None:
        """Of the right form; a drafter may be faulty or malicious."""
        base, tokens = self.random.randrange(MAX_CONTEXT), self._some_tokens()
        branch = Branch(0, base + self.random.randint(0, len(tokens)), self._some_tokens())
        self._deliver(Draft("s", base, tokens, branches=(branch,)))

    def _some_tokens(self) -> Tokens:
        return tuple(self.random.randrange(VOCAB) for _ in range(self.random.randint(0, 9)))

    def _deliver(self, draft: Draft) -> None:
        self.verifier.add(draft)
        assert len(self.verifier.path()) <= self.spec.max_draft

    def credit_is_granted(self) -> None:
        self.credit = max(self.credit or 0, len(self.committed) + self.random.randint(0, 9))
        self.verifier.grant(Credit("s", self.credit))

    # --- what fails ---

    def verifier_is_replaced(self) -> None:
        if self.finish is None:
            spec = replace(self.spec, context=tuple(self.committed))
            self.verifier = VerifierSession(spec, max_context=MAX_CONTEXT, vocab_size=VOCAB)
            self.backend, self.batcher = Backend(), Batcher(self.limits)
            self.verifier.tap(self.tap)
            if self.credit is not None:
                self.verifier.grant(Credit("s", self.credit))

    def tap_is_asked_for_again(self) -> None:
        self.verifier.tap(self.tap)

    def tap_changes(self) -> None:
        self.verifier.tap(Tap("s"))
        self.verifier.tap(self.tap)

    def drafter_is_replaced(self) -> None:
        self.commits, self.job = [], None
        spec = replace(self.spec, context=tuple(self.committed))
        self.drafter = DraftingSession(spec, max_window=64, needs=Needs((-1,), self.tap.history))
        self.handed = 0


EVENTS: dict[str, Callable[[World], None]] = {
    name: method for name, method in vars(World).items() if callable(method) and not name.startswith("_")
}
OFTEN = {
    "drafter_starts_a_guess": 30,
    "drafter_ends_its_guess": 30,
    "commit_arrives": 30,
    "oldest_draft_arrives": 30,
    "verifier_steps": 15,
    "credit_is_granted": 5,
}


def some_world(random: Random) -> World:
    prompt = random.randint(1, 30)
    spec = replace(
        SPEC,
        context=tuple(random.randrange(VOCAB) for _ in range(prompt)),
        prompt_length=prompt,
        stops=StopRules(random.randint(1, 40), random.choice([(), (), (0,)])),
        max_draft=random.choice([0, 2, 4, 6]),
        window=random.choice([1, 4, 10, 20]),
        fan_out=random.choice([0, 1, 3]),
        pace=random.choice(list(Pace)),
    )
    limits = Limits(random.choice([2, 6, 12]), random.choice([1, 5, 20]))
    return World(spec, random, limits, skill=random.choice([0.0, 0.8, 1.0]))


@given(st.integers(0, 2**64))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_to_drafts_exactly_the_reference_is_committed(seed: int) -> None:
    world = some_world(Random(seed))
    for event in world.random.choices(list(EVENTS), [OFTEN.get(name, 1) for name in EVENTS], k=400):
        EVENTS[event](world)
    world.credit = MAX_CONTEXT
    world.verifier.grant(Credit("s", MAX_CONTEXT))
    for _ in range(2 * MAX_CONTEXT):  # nobody drafts any more: it must end by itself
        world.verifier_steps()
    expected = reference(world.spec)
    assert tuple(world.committed[world.spec.prompt_length :]) == expected
    stops = expected[-1] in world.spec.stops.stop_token_ids
    assert world.finish is (FinishReason.STOP if stops else FinishReason.LENGTH)


# --- over a perfect network ------------------------------------------------------------------------------------------


def perfect(spec: SessionSpec) -> World:
    """A drafter that is always right, and nothing limits a step."""
    return World(spec, Random(1), Limits(99, 99), skill=1.0, stamina=1.0, confidence=0.98, alternatives=0.0)


def draft_as_far_as_allowed(world: World) -> None:
    while (job := world.drafter.job(64)) is not None:
        world.job = job
        world.drafter_ends_its_guess()


def run(world: World, deliver: Callable[[World], None]) -> list[tuple[int, int]]:
    """Drafted and accepted tokens of every step."""
    while world.finish is None:
        draft_as_far_as_allowed(world)
        deliver(world)
        world.verifier_steps()
        while world.commits:
            world.commit_arrives()
    assert tuple(world.committed[3:]) == reference(world.spec)
    return [(one.drafted, one.accepted) for one in world.history]


def all_at_once(world: World) -> None:
    while world.drafts:
        world.oldest_draft_arrives()


@pytest.mark.parametrize(
    ("max_tokens", "steps"),
    [
        (1, [0]),
        (2, [1]),
        (5, [4]),
        (6, [4, 0]),
        (7, [4, 1]),
        (20, [4, 4, 4, 4]),
    ],
)
def test_a_perfect_drafter_fills_every_step_up_to_the_last_token(max_tokens: int, steps: list[int]) -> None:
    world = perfect(replace(SPEC, stops=StopRules(max_tokens)))
    assert run(world, all_at_once) == [(count, count) for count in steps]


def test_drafts_that_come_a_step_late_are_used_from_where_the_target_has_got_to() -> None:
    world, late = perfect(replace(SPEC, max_draft=2, window=8)), list[Draft]()

    def one_step_late(world: World) -> None:
        fresh, world.drafts = world.drafts, late[:]
        late[:] = fresh
        all_at_once(world)

    steps = run(world, one_step_late)
    assert steps[0] == (0, 0)
    assert set(steps[1:-1]) == {(2, 2)}


def test_a_drafter_that_is_always_wrong_costs_no_token() -> None:
    world = perfect(SPEC)

    def wrong(world: World) -> None:
        world.drafts = [
            replace(one, token_ids=tuple((token + 1) % VOCAB for token in one.token_ids)) for one in world.drafts
        ]
        all_at_once(world)

    assert {accepted for _, accepted in run(world, wrong)} == {0}
    assert len(world.history) == 24
