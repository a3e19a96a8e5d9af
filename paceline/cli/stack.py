"""A whole local system: embedded Valkey, verifiers, drafters and a coordinator, as processes of this machine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from paceline.cli.supervisor import Child, Program, Ready, kept_alive, stop_all
from paceline.config.links import parse_link
from paceline.core.errors import NotFound, Unavailable
from paceline.drafters.packaged import AUTO, choose_drafter
from paceline.text.resolve import PACKAGED, cache_root, model_directory

START_S = 300.0
"""A model may have to be compiled for at its very first start."""
METRICS = "server.metrics=127.0.0.1:0"
"""Every process of a local stack serves its metrics, on a free port of this machine only."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run."""

    verifier_model: str = PACKAGED
    backend: str = "torch"
    drafter: str = ""
    """Of the pool of drafters; empty: the best there is, if there is a pool."""
    drafter_model: str = ""
    resident: str | None = None
    """Drafter inside the verifiers; empty for none, None for the best there is unless there is a pool."""
    resident_model: str = ""
    num_verifiers: int = 1
    num_drafters: int | None = None
    """None: one if ``drafter`` names one, or none guesses inside the verifiers."""
    quantize: str = ""
    """int8: the target's weights with 8 bits."""
    link: str = ""
    """Emulated network to the pool of drafters, which there is then."""
    port: int = 50051
    store: str = ""
    """URL of a running Redis or Valkey; empty starts an embedded Valkey."""
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """More key=value settings by role."""


@dataclass(slots=True)
class Stack:
    """Running processes and where they listen."""

    grpc: str
    store: str
    processes: list[Ready]

    def as_json(self) -> dict[str, object]:
        """What ``paceline up --json`` prints."""
        processes = [{"role": one.role, "pid": one.pid, "address": one.address} for one in self.processes]
        return {"grpc": self.grpc, "http": None, "store": self.store, "processes": processes}


Say = Callable[[str], None]


@asynccontextmanager
async def running_stack(options: StackOptions, say: Say) -> AsyncIterator[Stack]:
    """Start in order, keep alive for the length of the block, end in reverse order."""
    parse_link(options.link)
    logs = cache_root() / "logs" / str(os.getpid())
    logs.mkdir(parents=True, exist_ok=True)
    options = choose(options)
    async with AsyncExitStack() as closing:
        stack = Stack("", "", [])
        children: list[Child] = []
        closing.push_async_callback(stop_all, children)
        stack.store = store = options.store or await _start_valkey(logs, stack, children, say)
        await _ensure_model(options, say)
        pools = [await _start(program, logs, stack, children) for program in _pool_programs(options, say)]
        front = _coordinator(options, store, pools)
        say("starting the coordinator")
        stack.grpc = (await _start(front, logs, stack, children)).address
        async with kept_alive(children):
            yield stack


def choose(options: StackOptions) -> StackOptions:
    """With the drafters that ``auto`` stands for."""
    is_synthetic = options.backend == "synthetic"
    has_pool = bool(options.drafter or options.num_drafters or options.link)
    resident = ("" if is_synthetic or has_pool else AUTO) if options.resident is None else options.resident
    drafter = options.drafter or ("synthetic" if is_synthetic else AUTO)
    num_drafters = int(has_pool or not resident) if options.num_drafters is None else options.num_drafters
    drafter, drafter_model = choose_drafter(drafter, options.drafter_model, options.verifier_model)
    resident, resident_model = choose_drafter(resident, options.resident_model, options.verifier_model)
    return replace(
        options,
        drafter=drafter,
        drafter_model=drafter_model,
        resident=resident,
        resident_model=resident_model,
        num_drafters=num_drafters,
    )


async def _start(program: Program, logs: Path, stack: Stack, children: list[Child]) -> Ready:
    def replace(ready: Ready) -> None:
        stack.processes[:] = [ready if one.address == ready.address else one for one in stack.processes]

    child = Child(program, logs / f"{program.name}.log", replace)
    children.append(child)
    ready = await child.start(START_S)
    stack.processes.append(ready)
    return ready


async def _start_valkey(logs: Path, stack: Stack, children: list[Child], say: Say) -> str:
    say("starting Valkey")
    ready = await _start(Program("store", "store", "paceline.cli.valkey", ()), logs, stack, children)
    return f"redis://{ready.address}/0"


async def _ensure_model(options: StackOptions, say: Say) -> None:
    """Convert what was never used before, in a process of its own, before anybody needs it."""
    sources = {options.verifier_model} if options.backend == "torch" else set()
    sources |= {one for one in (options.drafter_model, options.resident_model) if one}
    for source in sorted(sources):
        try:
            model_directory(source)
        except NotFound:
            say(f"converting the model {source} (once)")
            await run_prepare(source)


async def run_prepare(source: str) -> None:
    """``paceline prepare`` in a process of its own: this one needs no torch."""
    import sys

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "paceline.cli", "prepare", source, "--quiet"),
        stdout=asyncio.subprocess.DEVNULL,  # ours is for what was asked for
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise Unavailable(f"The model {source} could not be prepared: {lines[-1]}")


def _pool_programs(options: StackOptions, say: Say) -> list[Program]:
    inside = f", with {options.resident} inside" if options.resident else ""
    say(f"starting {options.num_verifiers} verifier(s){inside} and {options.num_drafters} drafter(s)")
    verifier = (
        METRICS,
        f"backend={options.backend}",
        f"model={options.verifier_model}",
        f"quantize={options.quantize}",
        f"resident={options.resident}",
        f"resident_model={options.resident_model}",
    )
    drafter = (
        METRICS,
        f"drafter={options.drafter}",
        f"model={options.drafter_model}",
        f"target={options.verifier_model if options.backend == 'torch' else ''}",
        *_drafter_vocabulary(options),
    )
    programs = [
        Program("verifier", f"verifier-{i}", "verifier_service", verifier + options.settings.get("verifier", ()))
        for i in range(options.num_verifiers)
    ]
    return programs + [
        Program("drafter", f"drafter-{i}", "drafter_service", drafter + options.settings.get("drafter", ()))
        for i in range(options.num_drafters or 0)
    ]


def _drafter_vocabulary(options: StackOptions) -> tuple[str, ...]:
    """A random drafter must know how many ids there are."""
    if "random" not in options.drafter or options.backend != "torch":
        return ()
    config = json.loads((model_directory(options.verifier_model) / "config.json").read_text("utf-8"))
    return (f"vocab_size={config['vocab_size']}",)


def _coordinator(options: StackOptions, store: str, pools: list[Ready]) -> Program:
    members = {role: ",".join(one.address for one in pools if one.role == role) for role in ("verifier", "drafter")}
    tokenizer = options.verifier_model if options.backend == "torch" else ""
    settings = (
        METRICS,
        f"verifiers={members['verifier']}",
        f"drafters={members['drafter']}",
        f"store={store}",
        f"tokenizer={tokenizer}",
        f"drafter_link={options.link}",
        *options.settings.get("coordinator", ()),
    )
    return Program("coordinator", "coordinator", "coordinator", settings, f"127.0.0.1:{options.port}")


def address_file() -> Path:
    """Where a running stack says its gRPC address, for commands without ``--target``."""
    return cache_root() / "stack.json"
