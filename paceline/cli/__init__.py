"""The command ``paceline``: one file per verb."""

from __future__ import annotations

from paceline.cli.app import main

__all__ = ["main"]
