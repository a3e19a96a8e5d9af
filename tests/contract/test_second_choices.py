"""A drafter that is wrong first and right second, in a whole system: the text is the target's, in fewer steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from paceline.config.settings import DrafterSettings, SyntheticSettings, VerifierSettings
from paceline.core.ports import Clock, VerifierBackend
from paceline.core.requests import Finished, GenerateRequest
from paceline.core.types import Branch, DrafterInfo, DraftJob, Guess, SamplingParams, SessionSpec, Tokens
from paceline.testing.system import LocalSystem, drafter, local_system, verifier
from paceline.verifiers import create_backend
from tests.support.tiny_models import VOCAB, random_tokens, write_model

pytestmark = pytest.mark.looptime
PROMPT, LENGTH = tuple(random_tokens(9)), 40
LAWS = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(temperature=0.8, top_p=0.95),
    "penalties": SamplingParams(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.5),
}


class Doubtful:
    """Knows the text; its first choice is wrong except at every third place, its second is right."""

    info = DrafterInfo("doubtful", max_window=6)

    def __init__(self, text: Tokens) -> None:
        self._text = text

    def open(self, spec: SessionSpec) -> None: ...

    def close(self, session: str) -> None: ...

    def state_bytes(self) -> int:
        return 0

    def extend(self, jobs: Sequence[DraftJob]) -> list[Guess]:
        return [self._extend(job) for job in jobs]

    def _extend(self, job: DraftJob) -> Guess:
        start = len(job.context)
        right = self._text[start : start + job.max_tokens]
        guess = tuple(token if (start + i) % 3 == 0 else (token + 1) % VOCAB for i, token in enumerate(right))
        pairs = [(start + i, one) for i, one in enumerate(right) if one != guess[i]]
        branches = [Branch(0, place, (other,), (0.3,)) for place, one in pairs for other in (one, (one + 5) % VOCAB)]
        return Guess(job.session, guess, (0.6,) * len(guess), tuple(branches))


@pytest.fixture(scope="module", params=["synthetic", "llama bfloat16", "qwen3 float32"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VerifierSettings:
    family, _, dtype = request.param.partition(" ")
    common = VerifierSettings(max_context=128, max_sessions=4, prefill_chunk=8, threads=1)
    if not dtype:
        return replace(common, backend="synthetic", synthetic=SyntheticSettings(vocab_size=VOCAB, step_base_s=0.01))
    model = write_model(tmp_path_factory.mktemp("model"), family, head_dim=16)
    return replace(common, backend="torch", model=str(model), dtype=dtype)


def make(settings: VerifierSettings, clock: Clock, *, can: bool = True) -> VerifierBackend:
    backend = create_backend(settings, clock)
    if not can:
        backend.max_alternatives = 0
    return backend


@asynccontextmanager
async def system(settings: VerifierSettings, guest: Doubtful | None, way: str, can: bool) -> AsyncIterator[LocalSystem]:
    drafters = [drafter(DrafterSettings(), lambda _: guest)] if guest and way == "remote" else []
    target = verifier(
        settings,
        lambda one, clock: make(one, clock, can=can),
        lambda _: guest if way == "resident" else None,
    )
    async with local_system([target], drafters) as running:
        yield running


async def complete(
    settings: VerifierSettings, law: SamplingParams, guest: Doubtful | None, way: str, can: bool = True
) -> tuple[Tokens, Finished]:
    request = GenerateRequest(PROMPT, sampling=law, seed=5, max_tokens=LENGTH, max_draft=8, min_draft=3)
    async with system(settings, guest, way, can) as running:
        done = await running.complete(request)
    return done.token_ids, done.finished


@pytest.mark.parametrize("way", ["remote", "resident"])
@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
async def test_the_text_is_the_targets_and_takes_fewer_steps(
    settings: VerifierSettings, law: SamplingParams, way: str
) -> None:
    text, _ = await complete(settings, law, None, way)
    guest = Doubtful(PROMPT + text)
    without, slower = await complete(settings, law, guest, way, can=False)
    with_them, faster = await complete(settings, law, guest, way)
    assert without == with_them == text
    assert faster.speculative.num_steps < slower.speculative.num_steps
    assert 0 < faster.speculative.num_accepted_draft_tokens <= faster.speculative.num_draft_tokens
