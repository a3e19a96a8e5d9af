"""A target without weights: hash model, step times from settings, slept on the injected clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from paceline.config.settings import VerifierSettings
from paceline.core.errors import ResourceExhausted, invariant
from paceline.core.ports import Clock
from paceline.core.types import Alternative, SessionSpec, StepItem, StepOutcome, StepResult, VerifierInfo
from paceline.models.hash_model import HashModel
from paceline.verifiers.checks import check


class SyntheticVerifier:
    """Keeps each session's tokens the way a real one keeps KV, so that a wrong cache length shows."""

    state = None
    worker = None

    def __init__(self, settings: VerifierSettings, clock: Clock) -> None:
        synthetic = settings.synthetic
        self._model = HashModel(synthetic.vocab_size, synthetic.model_seed)
        self._base_s = synthetic.step_base_s
        self._row_s = synthetic.step_row_s
        self._kv_s = synthetic.step_kv_s
        self._clock = clock
        self.max_alternatives = settings.token_budget
        self._specs: dict[str, SessionSpec] = {}
        self._caches: dict[str, list[int]] = {}
        self.info = VerifierInfo(
            name=f"synthetic-{synthetic.vocab_size}",
            model_digest=self._model.digest,
            tokenizer_digest="",
            numerics_id=self._model.digest[:16],
            vocab_size=synthetic.vocab_size,
            max_context=settings.max_context,
            max_sessions=settings.max_sessions,
            device="none",
            dtype="float32",
        )

    def open(self, spec: SessionSpec) -> None:
        """Take a slot."""
        check(spec, self.info)
        if len(self._specs) >= self.info.max_sessions:
            raise ResourceExhausted(f"All {self.info.max_sessions} session slots are taken; try another verifier.")
        self._specs[spec.session] = spec
        self._caches[spec.session] = []

    def close(self, session: str) -> None:
        """Free the slot."""
        self._specs.pop(session, None)
        self._caches.pop(session, None)

    async def watch(self) -> None:
        """For ever: nothing can happen to it."""
        await asyncio.get_running_loop().create_future()

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        """Hash all rows, then sleep for as long as the profile says."""
        rows = sum(item.num_rows for item in items)
        read = sum(item.num_rows * item.start for item in items)
        seconds = self._base_s + self._row_s * rows + self._kv_s * read
        outcomes = tuple(self._outcome(item) for item in items)
        await self._clock.sleep(seconds)
        return StepResult(outcomes, forward_s=seconds)

    def _outcome(self, item: StepItem) -> StepOutcome:
        cache = self._caches[item.session]
        invariant(item.start <= len(cache), "rows start within the cache")
        del cache[item.start :]
        cache += item.tokens
        if not item.sample:
            return StepOutcome(item.session, ())
        position = item.start + item.num_committed
        out: list[int] = []
        for index in range(item.num_draft + 1):
            out.append(self._next_token(item.session, position + index))
            if index == item.num_draft or out[-1] == cache[position + index]:
                continue
            if Alternative(index, out[-1]) in item.alternatives:
                cache[position + index] = out[-1]
                out.append(self._next_token(item.session, position + index + 1))
            break
        return StepOutcome(item.session, tuple(out), accepted=len(out) - 1)

    def _next_token(self, session: str, position: int) -> int:
        spec = self._specs[session]
        return self._model.next_token(self._caches[session][:position], spec.sampling, spec.prompt_length)
