"""``paceline reload``: new weights for a drafter that goes on serving, in a process of its own or in a verifier's."""

from __future__ import annotations

import json

import typer

from paceline.cli.running import run
from paceline.client.aio import reload_drafter


def reload(
    address: str = typer.Argument(..., help="host:port of the drafter, or of the verifier that it lives in."),
    json_: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Let a drafter load its weights anew, without dropping a session; on failure the old ones go on."""
    old, new = run(reload_drafter(address), as_json=json_)
    if json_:
        typer.echo(json.dumps({"old_model_digest": old, "new_model_digest": new}))
    else:
        typer.echo(f"{old[:12] or 'no model'} → {new[:12] or 'no model'}" + (" (the same)" if old == new else ""))
