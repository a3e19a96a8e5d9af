"""Guessers behind ``core.ports.Drafter``; each is imported when it is asked for."""

from __future__ import annotations

from dataclasses import replace

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest
from paceline.core.ports import Drafter, TargetState


def _ngram(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.ngram import NgramDrafter

    return NgramDrafter(settings.max_sessions)


def _suffix(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.corpus import read_corpus
    from paceline.drafters.suffix import SuffixDrafter

    documents, digest = read_corpus(settings) if settings.corpus else ([], "")
    return SuffixDrafter(settings.max_sessions, documents, tokenizer_digest=digest, learns=settings.learn)


def _random(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.random import RandomDrafter

    return RandomDrafter(settings.max_sessions, settings.vocab_size)


def _synthetic(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.synthetic import SyntheticDrafter

    return SyntheticDrafter(settings.max_sessions, settings.synthetic)


def _model(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.model import ModelDrafter

    return ModelDrafter.load(settings)


def _mtp(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.mtp import MtpDrafter

    return MtpDrafter.load(settings)


def _medusa(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.medusa import MedusaDrafter

    return MedusaDrafter.load(settings)


def _mix(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.mix import MixDrafter, part_names

    names = part_names(settings.drafter, settings.parts)
    return MixDrafter([create_drafter(replace(settings, drafter=name), target) for name in names])


def _gemma_assistant(settings: DrafterSettings, target: TargetState | None) -> Drafter:
    from paceline.drafters.gemma_assistant import GemmaAssistantDrafter

    return GemmaAssistantDrafter.load(settings, target)


DRAFTERS = {
    "suffix": _suffix,
    "ngram": _ngram,
    "model": _model,
    "random": _random,
    "synthetic": _synthetic,
    "mtp": _mtp,
    "medusa": _medusa,
    "mix": _mix,
    "gemma_assistant": _gemma_assistant,
}


def create_drafter(settings: DrafterSettings, target: TargetState | None = None) -> Drafter:
    """The drafter that the settings name; may take long, since it may load a model.

    target: what the verifier lets a drafter in its own process see; a drafter that needs it is refused without.
    """
    name, colon, _ = settings.drafter.partition(":")
    if name not in DRAFTERS or (colon and name != "mix"):
        raise InvalidRequest(f"drafter: {settings.drafter!r} is unknown; choose one of {', '.join(DRAFTERS)}.")
    try:
        return DRAFTERS[name](settings, target)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"drafter: {settings.drafter!r} needs {error.name}; install it with: pip install 'paceline[torch]'."
        ) from error
