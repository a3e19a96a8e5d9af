"""``python -m coordinator``: see ``--help`` for the settings."""

from __future__ import annotations

from coordinator.app import run
from paceline.config.settings import CoordinatorSettings
from paceline.wire.process import main

if __name__ == "__main__":
    main(CoordinatorSettings, "coordinator", "Serves clients; pairs drafters with verifiers.", run)
