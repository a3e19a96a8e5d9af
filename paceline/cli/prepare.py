"""``paceline prepare``: converts a model into the cache."""

from __future__ import annotations

import contextlib
import io

import typer

from paceline.cli.running import fail
from paceline.config.packaged import NAMES
from paceline.core.errors import PacelineError
from paceline.text.resolve import PACKAGED


def prepare(
    source: str = typer.Argument(PACKAGED, help=f"Directory, .gguf file, hub name, or {NAMES} (packaged)."),
    quiet: bool = typer.Option(False, help="No progress, only errors."),
) -> None:
    """Convert a model once, so that services start fast."""
    from paceline.models.loading import prepare as convert

    progress = io.StringIO()
    try:
        with contextlib.redirect_stderr(progress) if quiet else contextlib.nullcontext():
            directory = convert(source)
    except PacelineError as error:
        fail(error)
    typer.echo(str(directory))
