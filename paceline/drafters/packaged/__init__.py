"""Trained drafters that come with the package, by the name of the packaged target that they were trained for."""

from __future__ import annotations

from pathlib import Path

from paceline.drafters.description import DESCRIPTION

AUTO = "auto"
"""The best that there is for a target."""
FOR_ANY = "suffix"
_HERE = Path(__file__).parent


def packaged_drafter(target: str) -> Path | None:
    """The directory of the drafter for ``target``; None when none is packaged."""
    directory = _HERE / target
    return directory if target.isidentifier() and (directory / DESCRIPTION).is_file() else None


def choose_drafter(spec: str, model: str, target: str) -> tuple[str, str]:
    """(drafter, model) as settings of a drafter; ``auto`` becomes what suits the target best."""
    if spec != AUTO:
        return spec, model
    directory = packaged_drafter(target)
    return (FOR_ANY, model) if directory is None else ("mix:mtp,suffix", str(directory))
