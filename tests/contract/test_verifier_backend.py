"""One suite for every target back end: the tokens are the session's own, whatever was drafted, batched or lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from paceline.config.settings import SyntheticSettings, VerifierSettings
from paceline.core.errors import InvalidRequest, ResourceExhausted
from paceline.core.ports import VerifierBackend
from paceline.core.types import Alternative, SamplingParams, SessionSpec, StepItem, StepOutcome, StopRules, Tokens
from paceline.telemetry.clock import SystemClock
from paceline.verifiers import create_backend
from paceline.verifiers.torch import TorchVerifier
from tests.support.tiny_models import VOCAB, random_tokens, write_model

PROMPT = tuple(random_tokens(11))
SLOTS = 4
SAMPLING = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(temperature=0.8, top_p=0.95, seed=3),
    "another seed": SamplingParams(temperature=0.8, top_p=0.95, seed=2**64 - 1),
    "penalties": SamplingParams(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3),
    "all at once": SamplingParams(
        temperature=1.5,
        top_k=20,
        min_p=0.01,
        repetition_penalty=0.8,
        frequency_penalty=1.0,
        logit_bias=((5, 2.0), (6, -2.0)),
        banned_tokens=(7, 8),
        seed=9,
    ),
}


@pytest.fixture(scope="module", params=["synthetic", "torch float32", "torch bfloat16", "torch generic", "torch ranks"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VerifierBackend]:
    kind, _, dtype = request.param.partition(" ")
    settings = VerifierSettings(
        backend=kind, max_sessions=SLOTS, max_context=100, synthetic=SyntheticSettings(vocab_size=VOCAB)
    )
    if kind == "torch":
        family, num_ranks = "qwen3" if dtype == "generic" else "llama", 2 if dtype == "ranks" else 1
        directory = write_model(tmp_path_factory.mktemp("model"), family, head_dim=16)
        dtype = "float32" if dtype in ("generic", "ranks") else dtype
        settings = replace(settings, model=str(directory), dtype=dtype, tensor_parallel=num_ranks)
    made = create_backend(settings, SystemClock())
    yield made
    if isinstance(made, TorchVerifier):
        made.leave()


@pytest.fixture(autouse=True)
def all_closed(backend: VerifierBackend) -> Iterator[None]:
    yield
    for name in ("s", "a", "b", "c", "d", "e"):
        backend.close(name)


def spec(session: str = "s", sampling: SamplingParams | None = None, context: Tokens = PROMPT) -> SessionSpec:
    return SessionSpec(session, context, len(PROMPT), sampling or SamplingParams(), StopRules(100))


DraftOf = Callable[[Tokens], Tokens]
"""From the committed tokens to a draft."""
Beside = Callable[[Tokens, Tokens], tuple[Alternative, ...]]
"""From the committed tokens and a draft to what may stand in place of its tokens."""


def nothing(_: Tokens) -> Tokens:
    return ()


def nothing_beside(_: Tokens, __: Tokens) -> tuple[Alternative, ...]:
    return ()


@dataclass
class Session:
    """Runs one session as a verifier's loop does: missing tokens, then a draft; rollback by position."""

    spec: SessionSpec
    draft: DraftOf = nothing
    chunk: int = 64
    beside: Beside = nothing_beside
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    accepted: int = 0
    stood_in: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.spec.context)

    @property
    def output(self) -> Tokens:
        return tuple(self.tokens[len(PROMPT) :])

    def item(self) -> StepItem:
        missing = self.tokens[self.cached :]
        if len(missing) > self.chunk:
            return StepItem(self.spec.session, self.cached, tuple(missing[: self.chunk]), sample=False)
        draft = self.draft(tuple(self.tokens))
        beside = self.beside(tuple(self.tokens), draft)
        return StepItem(self.spec.session, self.cached, (*missing, *draft), len(draft), beside)

    def apply(self, item: StepItem, outcome: StepOutcome) -> None:
        assert outcome.session == self.spec.session
        if not item.sample:
            assert outcome == StepOutcome(self.spec.session, ())
            self.cached += len(item.tokens)
            return
        draft = item.tokens[item.num_committed :]
        assert len(outcome.token_ids) == outcome.accepted + 1
        path, last = outcome.token_ids[: outcome.accepted], outcome.accepted - 1
        if path == draft[: outcome.accepted]:
            assert outcome.accepted == len(draft) or outcome.token_ids[-1] != draft[outcome.accepted]
        else:
            assert path[:last] == draft[:last]
            assert Alternative(last, path[last]) in item.alternatives
            self.stood_in += 1
        self.cached = len(self.tokens) + outcome.accepted
        self.accepted += outcome.accepted
        self.tokens += outcome.token_ids


async def step(backend: VerifierBackend, sessions: Sequence[Session]) -> None:
    items = [session.item() for session in sessions]
    result = await backend.step(items)
    assert len(result.outcomes) == len(items)
    for session, item, outcome in zip(sessions, items, result.outcomes, strict=True):
        session.apply(item, outcome)


async def decode(backend: VerifierBackend, session: Session, count: int = 20) -> Tokens:
    """At least ``count`` output tokens of a session that is opened here; the first ``count``."""
    backend.open(session.spec)
    while len(session.output) < count:
        await step(backend, [session])
    backend.close(session.spec.session)
    return session.output[:count]


async def plain(backend: VerifierBackend, sampling: SamplingParams | None = None, count: int = 20) -> Tokens:
    return await decode(backend, Session(spec("plain", sampling)), count)


def right(text: Tokens, count: int = 4) -> DraftOf:
    return lambda committed: (PROMPT + text)[len(committed) : len(committed) + count]


def wrong(text: Tokens) -> DraftOf:
    return lambda committed: tuple((token + 1) % VOCAB for token in right(text)(committed))


def partly_right(text: Tokens) -> DraftOf:
    def draft(committed: Tokens) -> Tokens:
        path = right(text, 5)(committed)
        place = len(committed) % 4
        return (*path[:place], *((token + 1) % VOCAB for token in path[place : place + 1]), *path[place + 1 :])

    return draft


def garbage(_: Tokens) -> DraftOf:
    return lambda committed: tuple(random_tokens(len(committed) % 7, seed=len(committed)))


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=list(SAMPLING))
@pytest.mark.parametrize("kind", [right, wrong, partly_right, garbage])
async def test_tokens_do_not_depend_on_what_was_drafted(
    backend: VerifierBackend, kind: Callable[[Tokens], DraftOf], sampling: SamplingParams
) -> None:
    text = await plain(backend, sampling, 30)
    session = Session(spec("s", sampling), kind(text))
    assert await decode(backend, session, 24) == text[:24]
    if kind is right:
        assert session.accepted >= 16
    if kind is wrong:
        assert session.accepted == 0


async def test_a_right_draft_is_taken_whole_and_the_targets_own_token_added(backend: VerifierBackend) -> None:
    text = await plain(backend)
    backend.open(spec())
    result = await backend.step([StepItem("s", 0, PROMPT + text[:6], num_draft=6)])
    assert result.outcomes == (StepOutcome("s", text[:7], accepted=6),)


async def test_a_draft_is_taken_up_to_its_first_error(backend: VerifierBackend) -> None:
    text = await plain(backend)
    backend.open(spec())
    draft = (*text[:2], (text[2] + 1) % VOCAB, *text[3:6])
    result = await backend.step([StepItem("s", 0, PROMPT + draft, num_draft=6)])
    assert result.outcomes == (StepOutcome("s", text[:3], accepted=2),)


def first_choice_wrong(text: Tokens) -> Beside:
    """The right token, and wrong ones around it, in place of each token."""

    def beside(committed: Tokens, draft: Tokens) -> tuple[Alternative, ...]:
        path = right(text, len(draft))(committed)
        tokens = [(index, (token + shift) % VOCAB) for index, token in enumerate(path) for shift in (2, 0, 3)]
        return tuple(Alternative(index, token) for index, token in tokens if token != draft[index])

    return beside


def garbage_beside(committed: Tokens, draft: Tokens) -> tuple[Alternative, ...]:
    tokens = random_tokens(len(draft), seed=len(committed) + 1)
    return tuple(Alternative(index, token) for index, token in enumerate(tokens) if token != draft[index])


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=list(SAMPLING))
@pytest.mark.parametrize("kind", [wrong, partly_right, garbage])
@pytest.mark.parametrize("is_right", [True, False], ids=["right beside it", "garbage beside it"])
async def test_tokens_do_not_depend_on_what_stood_beside_the_draft(
    backend: VerifierBackend, kind: Callable[[Tokens], DraftOf], sampling: SamplingParams, is_right: bool
) -> None:
    text = await plain(backend, sampling, 30)
    beside = first_choice_wrong(text) if is_right else garbage_beside
    session = Session(spec("s", sampling), kind(text), beside=beside)
    assert await decode(backend, session, 24) == text[:24]
    if is_right and kind is wrong:
        assert session.stood_in == 12


async def test_an_alternative_that_is_right_is_taken_with_the_token_behind_it(backend: VerifierBackend) -> None:
    text = await plain(backend)
    backend.open(spec())
    draft = (*text[:2], (text[2] + 1) % VOCAB, *text[3:6])
    beside = (Alternative(0, (text[0] + 1) % VOCAB), Alternative(2, (text[2] + 2) % VOCAB), Alternative(2, text[2]))
    result = await backend.step([StepItem("s", 0, PROMPT + draft, 6, beside)])
    assert result.outcomes == (StepOutcome("s", text[:4], accepted=3),)
    result = await backend.step([StepItem("s", len(PROMPT) + 3, text[3:6], 2)])
    assert result.outcomes == (StepOutcome("s", text[4:7], accepted=2),)


async def test_an_alternative_is_of_no_use_behind_a_wrong_draft(backend: VerifierBackend) -> None:
    text = await plain(backend)
    backend.open(spec())
    draft = ((text[0] + 1) % VOCAB, text[1], text[2])
    result = await backend.step([StepItem("s", 0, PROMPT + draft, 3, (Alternative(1, text[1]), Alternative(2, 5)))])
    assert result.outcomes == (StepOutcome("s", text[:1], accepted=0),)


async def test_penalties_behind_an_alternative_see_it_and_not_the_draft(backend: VerifierBackend) -> None:
    sampling = SamplingParams(presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=5.0)
    text = await plain(backend, sampling)
    backend.open(spec("s", sampling))
    draft = (text[0], text[2], *[text[2]] * 3)
    result = await backend.step([StepItem("s", 0, PROMPT + draft, 5, (Alternative(1, text[1]),))])
    assert result.outcomes[0].token_ids == text[:3]


async def test_alternatives_of_sessions_in_one_batch_do_not_meet(backend: VerifierBackend) -> None:
    assert backend.max_alternatives >= 64
    texts = {name: await plain(backend, SAMPLING[law], 40) for name, law in zip("abc", SAMPLING, strict=False)}
    sessions = [
        Session(spec(name, SAMPLING[law]), partly_right(texts[name]), beside=first_choice_wrong(texts[name]))
        for name, law in zip("abc", SAMPLING, strict=False)
    ]
    for session in sessions:
        backend.open(session.spec)
    while any(len(session.output) < 30 for session in sessions):
        await step(backend, [session for session in sessions if len(session.output) < 30])
    for session in sessions:
        assert session.output[:30] == texts[session.spec.session][:30]
        assert session.stood_in >= 3


async def test_seeds_and_parameters_make_different_texts(backend: VerifierBackend) -> None:
    texts = [await plain(backend, sampling) for sampling in SAMPLING.values()]
    assert len(set(texts)) == len(texts)
    assert texts == [await plain(backend, sampling) for sampling in SAMPLING.values()]


async def test_penalties_see_drafts_only_up_to_the_position(backend: VerifierBackend) -> None:
    """A token drafted for later must not be penalised before."""
    sampling = SamplingParams(presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=5.0)
    text = await plain(backend, sampling)
    backend.open(spec("s", sampling))
    draft = (text[0], (text[1] + 1) % VOCAB, *[text[1]] * 4)
    result = await backend.step([StepItem("s", 0, PROMPT + draft, num_draft=6)])
    assert result.outcomes[0].token_ids == text[:2]


async def test_the_prompt_length_tells_prompt_from_output(backend: VerifierBackend) -> None:
    """After a failover the context holds output too: presence counts it, as if the session had never moved."""
    sampling = SamplingParams(presence_penalty=2.0, frequency_penalty=1.0)
    text = await plain(backend, sampling)
    moved = Session(spec("s", sampling, context=PROMPT + text[:8]))
    assert await decode(backend, moved) == text


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=list(SAMPLING))
async def test_sessions_in_one_batch_do_not_see_each_other(backend: VerifierBackend, sampling: SamplingParams) -> None:
    text, other = await plain(backend, sampling, 30), await plain(backend, SAMPLING["all at once"], 50)
    sessions = [
        Session(spec("a", SAMPLING["all at once"]), garbage(())),
        Session(spec("s", sampling), partly_right(text)),
        Session(SessionSpec("b", (5,), 1, SAMPLING["temperature"], StopRules(9))),
        Session(spec("c", SAMPLING["greedy"]), chunk=2),
    ]
    for session in sessions:
        backend.open(session.spec)
    await step(backend, sessions[:1])
    while len(sessions[1].output) < 20:
        await step(backend, sessions if len(sessions[1].output) % 2 else sessions[::-1])
    assert sessions[1].output[:20] == text[:20]
    output = sessions[0].output
    assert output == other[: len(output)]
    assert len(output) > 5


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10, 11])
async def test_prefill_in_chunks_leads_to_the_same_tokens(backend: VerifierBackend, chunk: int) -> None:
    assert await decode(backend, Session(spec(), chunk=chunk)) == await plain(backend)


async def test_a_chunk_of_prefill_has_no_outcome(backend: VerifierBackend) -> None:
    backend.open(spec())
    result = await backend.step([StepItem("s", 0, PROMPT[:5], sample=False)])
    assert result.outcomes == (StepOutcome("s", (), accepted=0),)


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=list(SAMPLING))
async def test_going_back_to_an_earlier_position_leaves_no_trace(
    backend: VerifierBackend, sampling: SamplingParams
) -> None:
    text = await plain(backend, sampling)
    session = Session(spec("s", sampling), garbage(()))
    backend.open(session.spec)
    while len(session.output) < 15:
        await step(backend, [session])
    for back in (len(PROMPT) + 8, 3, 0):
        session.tokens = session.tokens[: max(back, len(PROMPT))]
        session.cached = min(back, len(session.tokens) - 1)
        while len(session.output) < 20:
            await step(backend, [session])
        assert session.output[:20] == text


async def test_a_session_opened_again_goes_on_where_it_was(backend: VerifierBackend) -> None:
    text = await plain(backend, SAMPLING["temperature"])
    for committed in (0, 1, 7, 19):
        again = Session(spec("s", SAMPLING["temperature"], context=PROMPT + text[:committed]), chunk=5)
        assert await decode(backend, again) == text


async def test_slots_are_limited_and_come_back(backend: VerifierBackend) -> None:
    assert backend.info.max_sessions == SLOTS
    for name in "abcd":
        backend.open(spec(name))
    with pytest.raises(ResourceExhausted):
        backend.open(spec("e"))
    backend.close("b")
    backend.open(spec("e"))
    with pytest.raises(ResourceExhausted):
        backend.open(spec("s"))


async def test_closing_is_harmless_for_unknown_sessions(backend: VerifierBackend) -> None:
    backend.close("nobody")
    backend.open(spec())
    backend.close("s")
    backend.close("s")
    assert await decode(backend, Session(spec())) == await plain(backend)


@pytest.mark.parametrize(
    ("sampling", "context"),
    [
        (SamplingParams(temperature=-1.0), PROMPT),
        (SamplingParams(logit_bias=((VOCAB, 1.0),)), PROMPT),
        (SamplingParams(), (*PROMPT, VOCAB)),
        (SamplingParams(), (-1, *PROMPT)),
    ],
)
async def test_what_can_not_be_served_is_refused_and_takes_no_slot(
    backend: VerifierBackend, sampling: SamplingParams, context: Tokens
) -> None:
    for _ in range(SLOTS + 1):
        with pytest.raises(InvalidRequest):
            backend.open(spec("s", sampling, context))
    for name in "abcd":
        backend.open(spec(name))


async def test_stop_ids_and_limits_are_not_its_business(backend: VerifierBackend) -> None:
    text = await plain(backend)
    stops = StopRules(2, stop_token_ids=text[:3])
    assert await decode(backend, Session(replace(spec(), stops=stops), right(text))) == text


async def test_what_is_served_is_described(backend: VerifierBackend) -> None:
    info = backend.info
    assert info == backend.info
    assert (info.vocab_size, info.max_context) == (VOCAB, 100)
    assert info.exact
    assert all((info.name, info.model_digest, info.numerics_id, info.device, info.dtype))


async def test_a_context_may_fill_the_slot_to_its_last_position(backend: VerifierBackend) -> None:
    text = await plain(backend, None, 100 - len(PROMPT))
    session = Session(spec(), lambda committed: right(text, min(5, 99 - len(committed)))(committed))
    assert await decode(backend, session, 100 - len(PROMPT)) == text
