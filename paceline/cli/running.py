"""What verbs share: running a coroutine with clear errors, finding or starting a stack."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import typer

from paceline.cli.stack import Say, StackOptions, address_file, running_stack
from paceline.client.aio import Client
from paceline.core.errors import InvalidRequest, PacelineError, Unavailable

ResultT = TypeVar("ResultT")
DEFAULT_TARGET = "127.0.0.1:50051"
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def program() -> str:
    """How to call this command from the user's shell."""
    return "paceline" if shutil.which("paceline") else sys.argv[0]


def say(text: str) -> None:
    """Progress, to standard error."""
    typer.echo(f"· {text}", err=True)


def run(work: Coroutine[Any, Any, ResultT], *, as_json: bool = False) -> ResultT:
    """Run to the end; one line per error and exit code 1 (130 after Ctrl-C)."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except PacelineError as error:
        fail(error, as_json=as_json)
    except ExceptionGroup as group:
        errors, rest = group.split(PacelineError)
        if rest is not None or errors is None:
            raise
        fail(_first(errors), as_json=as_json)


def _first(group: ExceptionGroup[Any]) -> PacelineError:
    one: Any = group
    while isinstance(one, ExceptionGroup):
        one = one.exceptions[0]
    return one  # type: ignore[no-any-return]  # split() left only ours


def fail(error: PacelineError, *, as_json: bool = False) -> NoReturn:
    """Say what went wrong and how to mend it."""
    if as_json:
        sys.stdout.write(json.dumps({"error": {"code": error.code, "message": str(error)}}) + "\n")
    typer.echo(f"error: {error.code}: {error}", err=True)
    raise typer.Exit(1)


@asynccontextmanager
async def connected(target: str, options: StackOptions | None = None, tell: Say = say) -> AsyncIterator[Client]:
    """A client of ``target``, else of a stack that runs on this machine, else of one started for the block."""
    address = target or await _running_address()
    if address:
        async with Client(address) as client:
            if not await client.is_serving(3.0):
                raise Unavailable(f"No coordinator answers at {address}. Start one with: paceline up")
            yield client
        return
    tell("no stack is running here; starting one for this command (keep one with: paceline up)")
    async with running_stack(options or StackOptions(port=0), tell) as stack, Client(stack.grpc) as client:
        yield client


async def _running_address() -> str:
    """Of the stack that ``paceline up`` announced, else the default port; empty when neither serves."""
    candidates = [DEFAULT_TARGET]
    if address_file().is_file():
        candidates.insert(0, json.loads(address_file().read_text("utf-8"))["grpc"])
    for address in dict.fromkeys(candidates):
        async with Client(address) as client:
            if await client.is_serving():
                return address
    return ""


def numbers(text: str, field: str) -> tuple[int, ...]:
    """Comma-separated integers. Raises ``InvalidRequest`` naming the field."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InvalidRequest(f"{field}: {text!r} is not a comma-separated list of integers.") from None
