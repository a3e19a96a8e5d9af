"""``paceline up``: a whole stack on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import typer
import yaml

from paceline.cli.running import program, run, say
from paceline.cli.stack import Stack, StackOptions, address_file, running_stack
from paceline.config.packaged import NAMES
from paceline.core.errors import InvalidRequest, NotFound
from paceline.drafters import DRAFTERS
from paceline.text.resolve import PACKAGED
from paceline.wire.server import until_signal

_ROLES = ("verifier", "drafter", "coordinator")


def up(
    verifier_model: str = typer.Option(PACKAGED, help=f"Directory, .gguf file, hub name, or {NAMES} (packaged)."),
    quantize: str = typer.Option("", help="int8: the target's weights with 8 bits; other text, twice as fast."),
    drafter: str = typer.Option("", help=f"Starts a pool: auto, {', '.join(DRAFTERS)}, or several: mix:a,b."),
    drafter_model: str = typer.Option("", help="What it loads: a model, or a directory made by paceline train."),
    resident: str = typer.Option(None, help="Inside the verifier; auto without a pool; empty for none."),
    resident_model: str = typer.Option("", help="What the resident drafter loads, as --drafter-model."),
    verifiers: int = typer.Option(1, min=1, help="Verifier processes."),
    drafters: int = typer.Option(None, min=0, help="Drafter processes; 1 where --drafter names one."),
    link: str = typer.Option("", help="Emulated network to the drafters, such as rtt=20ms,jitter=20%."),
    backend: str = typer.Option("torch", help="torch, or synthetic for a model made of hashes."),
    port: int = typer.Option(50051, min=0, max=65535, help="gRPC port of the coordinator; 0 picks a free one."),
    store: str = typer.Option("", help="redis:// URL of a running store; an embedded Valkey without."),
    config: Path = typer.Option(None, help="YAML or JSON with sections verifier, drafter and coordinator."),
    set_: list[str] = typer.Option([], "--set", metavar="ROLE.KEY=VALUE", help="One setting; repeatable."),
    as_json: bool = typer.Option(False, "--json", help="Print one line of JSON when ready, nothing else."),
) -> None:
    """Start Valkey, verifiers, drafters and a coordinator; end them with Ctrl-C."""

    async def work() -> None:
        options = StackOptions(
            verifier_model=verifier_model,
            quantize=quantize,
            backend=backend,
            drafter=drafter,
            drafter_model=drafter_model,
            resident=resident,
            resident_model=resident_model,
            num_verifiers=verifiers,
            num_drafters=drafters,
            link=link,
            port=port,
            store=store,
            settings=settings_by_role(config, set_),
        )
        await _serve(options, as_json)

    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    run(work(), as_json=as_json)


class _Plain(logging.Formatter):
    """Supervisor's warnings for people."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name in ("code", "reason")}
        return f"· {getattr(record, 'program', '')} {record.getMessage()} {extra or ''}"


async def _serve(options: StackOptions, as_json: bool) -> None:
    stopping = asyncio.ensure_future(until_signal())
    starting = asyncio.ensure_future(_run(options, as_json, stopping))
    await asyncio.wait((stopping, starting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not stopping.cancelled():
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        say("stopped")
    finally:
        stopping.cancel()


async def _run(options: StackOptions, as_json: bool, stopping: asyncio.Future[None]) -> None:
    async with running_stack(options, (lambda text: None) if as_json else say) as stack:
        path = address_file()
        path.write_text(json.dumps(stack.as_json()), "utf-8")
        try:
            _announce(stack, options, as_json)
            await asyncio.shield(stopping)
        finally:
            path.unlink(missing_ok=True)
            if not as_json:
                say("stopping")


def _announce(stack: Stack, options: StackOptions, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(stack.as_json()))
        return
    for process in stack.processes:
        metrics = f"   http://{process.metrics}/metrics" if process.metrics else ""
        typer.echo(f"  {process.role:<12} {process.address:<22} pid {process.pid:<8}{metrics}".rstrip())
    typer.echo(f"\nready: gRPC on {stack.grpc}, sessions in {stack.store}. Try:\n")
    prompt = '"Write a haiku about bicycles."' if options.backend == "torch" else "--token-ids 1,2,3"
    typer.echo(f"  {program()} generate --target {stack.grpc} --stream {prompt}\n")


def settings_by_role(config: Path | None, overrides: list[str]) -> dict[str, tuple[str, ...]]:
    """key=value by role, the file's first so that flags win."""
    out: dict[str, list[str]] = {role: [] for role in _ROLES}
    if config is not None:
        for role, table in _read(config).items():
            if role not in out or not isinstance(table, dict):
                raise InvalidRequest(f"config: {role!r} in {config} is no section; use {', '.join(_ROLES)}.")
            out[role] += _lines(table)
    for text in overrides:
        role, dot, setting = text.partition(".")
        if role not in out or not dot or "=" not in setting:
            raise InvalidRequest(f"--set {text}: write role.key=value, such as verifier.max_sessions=8.")
        out[role].append(setting)
    return {role: tuple(lines) for role, lines in out.items()}


def _read(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise NotFound(f"config: there is no file {config}.")
    try:
        content = yaml.safe_load(config.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise InvalidRequest(f"config: {config} is not valid: {error}.") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"config: {config} must hold sections {', '.join(_ROLES)}.")
    return content


def _lines(table: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{key}.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{prefix}{key}={text}")
    return lines
