"""From a request to everything that its session needs, or to the error that names what to change. Pure but for ids.

Called once per request, before anything is created anywhere: a refused request leaves nothing half done.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace

from paceline.config.settings import CoordinatorSettings
from paceline.core.errors import InvalidRequest, Unsupported
from paceline.core.requests import Chat, DraftMode, GenerateRequest
from paceline.core.types import Pace, Profile, SamplingParams, StopRules, Tokens, TraceContext, VerifierInfo
from paceline.sampling.processors import validate
from paceline.speculation.profiles import PRIORS
from paceline.telemetry.spans import child_of, new_trace
from paceline.text.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
PACES = {DraftMode.SYNC: Pace.SYNC, DraftMode.PIPELINE: Pace.PIPELINE, DraftMode.LOOKAHEAD: Pace.LOOKAHEAD}
"""Of the modes with drafters of the pool."""
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
"""Held back at most while a stop string may be beginning."""
MAX_STOP_IDS = 128
MAX_DRAFT = 64
MAX_TOKENS = MAX_TOP_K = 2**32 - 1
"""What a message can carry."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that is in order, with its defaults and ids filled in."""

    request_id: str
    session: str
    """32 hex digits from the system's secure source: the store's key can't be guessed."""
    prompt: Tokens
    sampling: SamplingParams
    stops: StopRules
    stop_strings: tuple[str, ...]
    max_draft: int
    """0 decodes plainly."""
    min_draft: int
    """At most ``max_draft``."""
    profile: Profile
    tenant: str
    allow_learning: bool
    """Verdicts about its drafts may be logged."""
    pace: Pace | None
    """When drafters of the pool go on; None if they may not guess for it."""
    fan_out: int
    """Alternatives per position that drafters may send."""
    verifier: VerifierInfo
    """What the session is pinned to: any verifier with this numerics id gives the same bits."""
    parent: TraceContext
    """The caller's span, or a fresh trace without one."""
    trace: TraceContext
    """The request's own span: parent of all that it causes."""
    budget_s: float
    """Time for the whole request."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that shapes the output."""
        shape = (self.prompt, asdict(self.sampling), asdict(self.stops), self.stop_strings, self.verifier.numerics_id)
        return hashlib.sha256(json.dumps(shape, default=str).encode()).hexdigest()


def check_request_id(request_id: str) -> str:
    """The client's id, or a fresh one."""
    if not request_id:
        return secrets.token_hex(16)
    if not _NAME.fullmatch(request_id):
        raise InvalidRequest("request_id: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', or leave it empty.")
    return request_id


def admit(
    request: GenerateRequest,
    settings: CoordinatorSettings,
    tokenizer: Tokenizer | None,
    verifier: VerifierInfo,
    request_id: str,
) -> Admitted:
    """Check everything that can be checked without asking anybody."""
    seed = secrets.randbits(64) if request.seed is None else request.seed
    if not 0 <= seed < 1 << 64:
        raise InvalidRequest(f"seed: {seed} is not an unsigned 64-bit number.")
    sampling = replace(request.sampling, seed=seed)
    validate(sampling, verifier.vocab_size)
    if sampling.top_k > MAX_TOP_K:
        raise InvalidRequest(f"top_k: {sampling.top_k} is more than {MAX_TOP_K}; use 0 to keep all tokens.")
    prompt = _prompt(request, tokenizer)
    mode = request.mode or DraftMode(settings.mode)
    lengths = _draft_lengths(request, settings)
    min_draft, max_draft = (0, 0) if mode is DraftMode.PLAIN else lengths
    parent = request.trace if request.trace.trace_id else new_trace()
    _check_prompt(prompt, verifier)
    return Admitted(
        request_id=request_id,
        session=secrets.token_hex(16),
        prompt=prompt,
        sampling=sampling,
        stops=_stop_rules(request, settings, verifier),
        stop_strings=_stop_strings(request.stop, tokenizer),
        max_draft=max_draft,
        min_draft=min_draft,
        profile=request.profile,
        tenant=_tenant(request.tenant),
        allow_learning=request.allow_learning,
        pace=PACES.get(mode) if max_draft else None,
        fan_out=settings.fan_out,
        verifier=verifier,
        parent=parent,
        trace=child_of(parent),
        budget_s=request.deadline_s or settings.request_timeout_s,
    )


def _tenant(tenant: str) -> str:
    if tenant and not _NAME.fullmatch(tenant):
        raise InvalidRequest("tenant: use 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', or leave it empty.")
    return tenant


def _prompt(request: GenerateRequest, tokenizer: Tokenizer | None) -> Tokens:
    if isinstance(request.prompt, tuple):
        return request.prompt
    if tokenizer is None:
        raise Unsupported("input: this coordinator has no tokenizer; send token ids, or start it with one.")
    if isinstance(request.prompt, Chat):
        return tokenizer.chat([(turn.role, turn.content) for turn in request.prompt.messages])
    if not request.prompt:
        raise InvalidRequest("text: the prompt is empty; send at least one character.")
    return tokenizer.encode(request.prompt)


def _check_prompt(prompt: Tokens, verifier: VerifierInfo) -> None:
    if not prompt:
        raise InvalidRequest("input: the prompt has no tokens; send at least one.")
    if len(prompt) >= verifier.max_context:
        raise InvalidRequest(
            f"input: the prompt has {len(prompt)} tokens, the model's context {verifier.max_context} with at least "
            "one for output; shorten the prompt or raise the verifier's max_context."
        )
    _check_ids("input", prompt, verifier)


def _check_ids(field: str, ids: Tokens, verifier: VerifierInfo) -> None:
    bad = next((token for token in ids if not 0 <= token < verifier.vocab_size), None)
    if bad is not None:
        raise InvalidRequest(f"{field}: token id {bad} is outside the vocabulary of {verifier.vocab_size}.")


def _stop_rules(request: GenerateRequest, settings: CoordinatorSettings, verifier: VerifierInfo) -> StopRules:
    max_tokens = settings.max_tokens if request.max_tokens is None else request.max_tokens
    if max_tokens < 1:
        raise InvalidRequest(f"max_tokens: {max_tokens} is too few; ask for at least 1.")
    if max_tokens > MAX_TOKENS:
        raise InvalidRequest(f"max_tokens: {max_tokens} is more than {MAX_TOKENS}; ask for less.")
    if len(request.stop_token_ids) > MAX_STOP_IDS:
        raise InvalidRequest(f"stop_token_ids: {len(request.stop_token_ids)} ids are more than {MAX_STOP_IDS}.")
    _check_ids("stop_token_ids", request.stop_token_ids, verifier)
    own = () if request.ignore_eos else verifier.stop_token_ids
    return StopRules(max_tokens, tuple(dict.fromkeys((*own, *request.stop_token_ids))))


def _stop_strings(stop: tuple[str, ...], tokenizer: Tokenizer | None) -> tuple[str, ...]:
    if stop and tokenizer is None:
        raise Unsupported("stop: this coordinator has no tokenizer; use stop_token_ids, or start it with one.")
    if len(stop) > MAX_STOPS:
        raise InvalidRequest(f"stop: {len(stop)} strings are more than {MAX_STOPS}.")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        raise InvalidRequest(f"stop: each string needs 1 to {MAX_STOP_CHARACTERS} characters.")
    return stop


def _draft_lengths(request: GenerateRequest, settings: CoordinatorSettings) -> tuple[int, int]:
    """(least, most) draft tokens of a step."""
    usual = min(settings.max_draft, PRIORS[request.profile].max_draft)
    max_draft = usual if request.max_draft is None else request.max_draft
    if not 0 <= max_draft <= MAX_DRAFT:
        raise InvalidRequest(f"max_draft: {max_draft} is not between 0 and {MAX_DRAFT}.")
    if not 0 <= request.min_draft <= max_draft:
        raise InvalidRequest(f"min_draft: {request.min_draft} is not between 0 and max_draft, {max_draft}.")
    return request.min_draft, max_draft
