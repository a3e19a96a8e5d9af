"""``python -m paceline.cli`` is ``paceline``."""

from __future__ import annotations

from paceline.cli.app import main

if __name__ == "__main__":
    main()
