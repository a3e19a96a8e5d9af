"""Target models behind ``core.ports.VerifierBackend``; a back end is imported when it is asked for."""

from __future__ import annotations

from paceline.config.settings import VerifierSettings
from paceline.core.errors import InvalidRequest
from paceline.core.ports import Clock, VerifierBackend


def _synthetic(settings: VerifierSettings, clock: Clock) -> VerifierBackend:
    from paceline.verifiers.synthetic import SyntheticVerifier

    if settings.tensor_parallel != 1:
        raise InvalidRequest("tensor_parallel: a synthetic model has nothing to share; set 1, or backend=torch.")
    return SyntheticVerifier(settings, clock)


def _torch(settings: VerifierSettings, clock: Clock) -> VerifierBackend:
    from paceline.verifiers.torch import TorchVerifier

    return TorchVerifier.load(settings)


BACKENDS = {"synthetic": _synthetic, "torch": _torch}


def follow(settings: VerifierSettings) -> None:
    """Be a rank behind the first one of a verifier, until that one ends. Raises ``Unavailable`` when it is lost."""
    from paceline.verifiers.torch import follow

    follow(settings)


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
