"""``python -m verifier_service``: see ``--help`` for the settings."""

from __future__ import annotations

from paceline.config.settings import VerifierSettings
from paceline.wire.process import main
from verifier_service.app import run

if __name__ == "__main__":
    main(VerifierSettings, "verifier_service", "Serves the target model.", run)
