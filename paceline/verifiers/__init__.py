"""Target models behind ``core.ports.VerifierBackend``; a back end is imported when it is asked for."""

from __future__ import annotations

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest
from paceline.core.ports import Clock, VerifierBackend


def _synthetic(settings: VerifierSettings, clock: Clock) -> VerifierBackend:
    from paceline.verifiers.synthetic import SyntheticVerifier

    return SyntheticVerifier(settings, clock)


def _torch(settings: VerifierSettings, clock: Clock) -> VerifierBackend:
    from paceline.verifiers.torch import TorchVerifier

    return TorchVerifier.load(settings)


BACKENDS = {"synthetic": _synthetic, "torch": _torch}


def create_backend(settings: VerifierSettings, clock: Clock) -> VerifierBackend:
    """The back end that the settings name; may take long, since it loads the model."""
    if settings.backend not in BACKENDS:
        raise InvalidRequest(f"backend: {settings.backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    try:
        return BACKENDS[settings.backend](settings, clock)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"backend: {settings.backend!r} needs {error.name}; install it with: pip install 'paceline[torch]'."
        ) from error
