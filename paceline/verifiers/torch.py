"""A ``transformers`` model as the target: one ragged forward pass per step, then sampling position by position."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

import torch

from paceline.config.settings import VerifierSettings
from paceline.core.errors import Unavailable
from paceline.core.ports import TargetState
from paceline.core.types import Alternative, SessionSpec, StepItem, StepOutcome, StepResult, Tokens, VerifierInfo
from paceline.models.frames import make_frames, make_kv_frames, union_of_taps
from paceline.models.invariance import Invariance, settle
from paceline.models.loading import check_shares, choose_dtype, load, model_digest, prepare
from paceline.models.packed import is_quantized
from paceline.models.rows import Output
from paceline.models.runner import Feed, ModelRunner, versions
from paceline.models.sampling import RowSampler
from paceline.models.threads import use_threads
from paceline.verifiers.checks import check
from paceline.verifiers.crew import BEAT_S, Crew, threads_of

_log = logging.getLogger(__name__)


class _Session:
    """Tokens whose KV is cached, and the law of the next one."""

    def __init__(self, spec: SessionSpec) -> None:
        self.sampler = RowSampler(spec.sampling, spec.prompt_length)
        self.tokens: list[int] = []

    def next_token(self, logits: torch.Tensor, position: int) -> int:
        """The target's own at ``position``; ``tokens`` are right up to there."""
        context = self.tokens[:position] if self.sampler.needs_context else ()
        return self.sampler.next_token(logits, context, position)


class TorchVerifier:
    """``core.ports.VerifierBackend``; computes in one worker thread of its own."""

    def __init__(self, runner: ModelRunner, invariance: Invariance, worker: Executor, crew: Crew | None = None) -> None:
        loaded = runner.loaded
        self._runner, self._crew = runner, crew
        self.worker: Executor | None = worker
        self._sessions: dict[str, _Session] = {}
        self._view = runner.view()
        self.state: TargetState | None = self._view
        self.max_alternatives = runner.max_beside
        self.info = VerifierInfo(
            name=loaded.name,
            model_digest=loaded.digest,
            tokenizer_digest=loaded.tokenizer_digest,
            numerics_id=runner.numerics_id,
            vocab_size=loaded.vocab_size,
            max_context=loaded.max_context,
            max_sessions=runner.slots.spare,
            stop_token_ids=loaded.stop_token_ids,
            exact=invariance.is_exact,
            device="cpu",
            dtype=str(loaded.dtype).removeprefix("torch."),
            num_layers=loaded.num_layers,
            hidden_size=loaded.hidden_size,
            kv=self._view.shapes(),
        )

    @classmethod
    def load(cls, settings: VerifierSettings) -> TorchVerifier:
        """Read the model and prove its invariance; takes seconds."""
        threads = threads_of(settings)
        worker = ThreadPoolExecutor(1, thread_name_prefix="verifier", initializer=use_threads, initargs=(threads,))
        return worker.submit(cls._load, settings, worker).result()

    @classmethod
    def _load(cls, settings: VerifierSettings, worker: ThreadPoolExecutor) -> TorchVerifier:
        directory = prepare(settings.model)  # by one process, whoever else needs it
        if settings.tensor_parallel > 1:
            check_shares(directory, settings.tensor_parallel)
        crew = Crew.join(settings)
        try:
            runner = load_runner(settings, crew)
            invariance = settle(runner)
        except Exception:
            if crew:
                crew.stop()
            raise
        level = logging.INFO if invariance.is_exact else logging.WARNING
        fields = {"model": runner.loaded.name, "plan": runner.kernel_plan, "probe": invariance.detail}
        _log.log(level, "model loaded", extra=fields)
        return cls(runner, invariance, worker, crew)

    def open(self, spec: SessionSpec) -> None:
        """Take a KV slot."""
        check(spec, self.info)
        self._runner.open(spec.session)
        self._sessions[spec.session] = _Session(spec)

    def close(self, session: str) -> None:
        """Free it."""
        self._runner.close(session)
        self._sessions.pop(session, None)

    async def watch(self) -> None:
        """Ask the other ranks again and again whether they are there; where there are none, wait for ever."""
        loop, led = asyncio.get_running_loop(), self._runner.led
        try:
            while led is not None:
                await loop.run_in_executor(self.worker, led.beat)
                await asyncio.sleep(BEAT_S)
            await loop.create_future()
        finally:
            await asyncio.to_thread(self.leave)

    def leave(self) -> None:
        """Let the other ranks end, if there are any; no step is possible then."""
        if self._runner.led is None or self._crew is None or self.worker is None:
            return
        has_ended = False
        with suppress(Unavailable):
            self.worker.submit(self._runner.led.beat).result()
            self.worker.submit(self._runner.led.end).result()
            has_ended = True
        self._crew.stop(farewell=has_ended)

    async def step(self, items: Sequence[StepItem]) -> StepResult:
        """One forward pass in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, self._step, items)

    def _step(self, items: Sequence[StepItem]) -> StepResult:
        started = time.perf_counter()
        taps = union_of_taps(items)
        outputs = self._runner.run([_feed(item) for item in items], taps)
        computed = time.perf_counter()
        outcomes = tuple(self._judge(item, output, taps) for item, output in zip(items, outputs, strict=True))
        return StepResult(outcomes, computed - started, time.perf_counter() - computed)

    def _judge(self, item: StepItem, output: Output, taps: tuple[int, ...]) -> StepOutcome:
        """The outcome of an item; its session then has just what was committed in its cache."""
        session = self._sessions[item.session]
        del session.tokens[item.start :]
        session.tokens += item.tokens
        if not item.sample:
            frames = make_frames(item, range(len(item.tokens)), output.features, taps) if item.taps else ()
            return StepOutcome(item.session, (), features=frames, kv=make_kv_frames(item, self._view))
        tokens, stand_in = self._sample(session, item, output.logits)
        accepted = len(tokens) - 1
        length = item.start + item.num_committed + accepted
        rows = list(range(item.num_committed + accepted))
        if stand_in is not None:
            self._runner.adopt(item.session, length - 1, tokens[-2])
            rows[-1] = len(item.tokens) + stand_in
        # Whoever reads the cache between two steps finds no rejected draft in it.
        self._runner.truncate(item.session, length)
        frames = make_frames(item, rows, output.features, taps) if item.taps else ()
        return StepOutcome(item.session, tokens, accepted, frames, make_kv_frames(item, self._view))

    def _sample(self, session: _Session, item: StepItem, logits: torch.Tensor) -> tuple[Tokens, int | None]:
        """The target's tokens from the first uncommitted position on, as long as the drafts say the same.

        With an alternative that was right, its number and the token behind it.
        """
        position, out = item.start + item.num_committed, list[int]()
        for index in range(item.num_draft + 1):
            token = session.next_token(logits[index], position + index)
            out.append(token)
            if index == item.num_draft or token == item.tokens[item.num_committed + index]:
                continue
            stand_in = _find(item, index, token)
            if stand_in is not None:
                session.tokens[position + index] = token
                out.append(session.next_token(logits[item.num_draft + 1 + stand_in], position + index + 1))
            return tuple(out), stand_in
        return tuple(out), None


def _feed(item: StepItem) -> Feed:
    first = item.start + item.num_committed
    others = [(first + one.index, one.token) for one in item.alternatives]
    return Feed(item.session, item.start, item.tokens, item.num_draft + 1 if item.sample else 0, others)


def _find(item: StepItem, index: int, token: int) -> int | None:
    """Number of the alternative that says this."""
    wanted = Alternative(index, token)
    return item.alternatives.index(wanted) if wanted in item.alternatives else None


def load_runner(settings: VerifierSettings, crew: Crew | None) -> ModelRunner:
    """The model, or this rank's share of it."""
    directory, ranks = prepare(settings.model), crew.ranks if crew else None
    dtype, quantized = choose_dtype(settings.dtype), is_quantized(settings.quantize)
    if ranks:
        ranks.agree(*versions(), model_digest(directory), dtype, quantized, settings.max_sessions, settings.max_context)
    loaded = load(directory, dtype, max_context=settings.max_context, ranks=ranks)
    return ModelRunner(loaded, settings.max_sessions, quantized=quantized)


def follow(settings: VerifierSettings) -> None:
    """Be another rank than the first, until that one ends. Raises ``Unavailable`` when it is lost."""
    use_threads(threads_of(settings))
    crew = Crew.join(settings)
    load_runner(settings, crew).follow()
