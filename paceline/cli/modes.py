"""What ``paceline bench`` compares: each mode makes a runner, which measures one prompt.

The modes are those of a request; a number is a block of that many draft tokens in every step. In all other modes the
length follows what pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from paceline.cli.measuring import Runner, Sample
from paceline.cli.prompts import PromptRow
from paceline.cli.stack import run_prepare
from paceline.client.aio import Completion
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.requests import DraftMode, GenerateRequest
from paceline.text.resolve import model_directory
from paceline.text.tokenizer import Tokenizer

PLAIN = DraftMode.PLAIN.value
PIPELINE = DraftMode.PIPELINE.value
COLOCATED = DraftMode.COLOCATED.value
TRANSFORMERS = "transformers"
MODES = (*(mode.value for mode in DraftMode), TRANSFORMERS)
LONGEST_BLOCK = 64


class Service(Protocol):
    """Whoever answers requests: a client, or a system in this process."""

    async def complete(self, request: GenerateRequest) -> Completion:
        """The whole answer at once."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How every prompt is asked, whatever the mode."""

    request: GenerateRequest
    """Its prompt, mode and draft lengths are replaced."""
    is_chat: bool = False
    """Prompts go through the model's chat template."""

    def of(self, template: GenerateRequest, row: PromptRow) -> GenerateRequest:
        """``template`` with the prompt of a row."""
        return replace(template, prompt=row.prompt(is_chat=self.is_chat))


def parse_modes(text: str, base: str = "") -> list[str]:
    """Comma-separated names and block lengths, without repeats; ``base`` comes first whether it is named or not."""
    chosen = list(dict.fromkeys(part.strip() for part in [base, *text.split(",")] if part.strip()))
    if not text.strip(" ,") or not all(mode in MODES or _is_block(mode) for mode in chosen):
        raise InvalidRequest(
            f"modes: {text!r} is not a list of {', '.join(MODES)} and draft lengths from 1 to {LONGEST_BLOCK}."
        )
    return chosen


def _is_block(mode: str) -> bool:
    return mode.isascii() and mode.isdecimal() and 1 <= int(mode) <= LONGEST_BLOCK


async def make_runners(modes: Sequence[str], service: Service, asking: Asking, model: str) -> dict[str, Runner]:
    """By mode, in the order given; ``model`` is loaded here for ``transformers``. Raises ``InvalidRequest``."""
    return {
        mode: await _peer(asking, model) if mode == TRANSFORMERS else _ours(mode, service, asking) for mode in modes
    }


def request_in(mode: str, request: GenerateRequest) -> GenerateRequest:
    """A request in a mode of ours."""
    if _is_block(mode):
        return replace(request, mode=DraftMode.PIPELINE, min_draft=int(mode), max_draft=int(mode))
    return replace(request, mode=DraftMode(mode))


def _ours(mode: str, service: Service, asking: Asking) -> Runner:
    template = request_in(mode, asking.request)

    async def measure(row: PromptRow) -> Sample:
        done = await service.complete(asking.of(template, row))
        finished, tokens = done.finished, len(done.token_ids)
        return Sample(
            mode,
            row.task,
            row.name,
            0,
            tokens,
            finished.total_s,
            tokens / max(finished.speculative.num_steps, 1),
            finished.speculative.mean_acceptance_length,
            done.token_ids,
            first_token_s=finished.first_token_s,
            speculative=finished.speculative,
        )

    return measure


async def _peer(asking: Asking, model: str) -> Runner:
    if asking.request.sampling.temperature:
        raise InvalidRequest("modes: transformers is only compared greedily; leave the temperature at 0.")
    from paceline.models.peer import TransformersPeer

    directory = await prepared(model)
    peer, encode = TransformersPeer(directory), encoder(directory, is_chat=asking.is_chat)

    async def measure(row: PromptRow) -> Sample:
        tokens, seconds = peer.generate(encode(row), asking.request.max_tokens or 1)
        return Sample(TRANSFORMERS, row.task, row.name, 0, len(tokens), seconds, 1.0, 0.0, tokens)

    return measure


async def prepared(model: str) -> Path:
    """The model's directory; converted now when it never was."""
    try:
        return model_directory(model)
    except NotFound:
        await run_prepare(model)
        return model_directory(model)


class Encode(Protocol):
    """A prompt as token ids, as the coordinator makes them."""

    def __call__(self, row: PromptRow) -> tuple[int, ...]:
        """Of one row."""


def encoder(directory: Path, *, is_chat: bool) -> Encode:
    """By the tokenizer in ``directory``."""
    tokenizer = Tokenizer.load(directory)

    def encode(row: PromptRow) -> tuple[int, ...]:
        if row.token_ids:
            return row.token_ids
        return tokenizer.chat([("user", row.text)]) if is_chat else tokenizer.encode(row.text)

    return encode
