"""``python -m drafter_service``: see ``--help`` for the settings."""

from __future__ import annotations

from drafter_service.app import run
from paceline.config.settings import DrafterSettings
from paceline.wire.process import main

if __name__ == "__main__":
    main(DrafterSettings, "drafter_service", "Guesses ahead of the target.", run)
