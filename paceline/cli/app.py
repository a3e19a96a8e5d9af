"""The table of verbs."""

from __future__ import annotations

import typer

from paceline import __version__
from paceline.cli import bench, check, demo, doctor, generate, overhead, prepare, profile, reload, trace, train, up

app = typer.Typer(
    name="paceline",
    help="Serve a large language model from a drafter pool and a verifier pool: bit for bit the same text, sooner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("generate")(generate.generate)
app.command("check-lossless")(check.check_lossless)
app.add_typer(bench.app, name="bench")
app.command("overhead")(overhead.overhead)
app.command("profile")(profile.profile)
app.command("trace")(trace.trace)
app.command("reload")(reload.reload)
app.command("doctor")(doctor.doctor)
app.command("prepare")(prepare.prepare)
app.command("demo")(demo.demo)
app.command("train")(train.train)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app()
