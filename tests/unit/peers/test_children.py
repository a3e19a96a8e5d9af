"""Engines as child processes: a real child speaks the protocol, well or badly; nobody believes it blindly."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from paceline.cli.peers.children import Generated, Loaded, Order, PeerChild
from paceline.core.errors import Unavailable

ORDER = Order("weights", "plain", threads=2, streams=8, max_context=256, weights="bfloat16", bits_per_weight=16.0)
GOOD = '{"outputs": [[m["prompts"][0][0] + i for i in range(m["max_tokens"])]], "seconds": 0.5, "steps": 3}'
LOADED = '{"engine": "fake 1", "weights": m["weights"], "bits_per_weight": 16.0, "max_streams": m["streams"]}'
WORKER = """
import json, os, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["verb"] == "load":
        print(json.dumps({loaded}), flush=True)
    else:
        {generate}
"""


def answer(expression: str) -> str:
    return f"print(json.dumps({expression}), flush=True)"


Make = Callable[..., PeerChild]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as ending:

        def one(generate: str = answer(GOOD), loaded: str = LOADED) -> PeerChild:
            code = WORKER.replace("{loaded}", loaded).replace("{generate}", generate)
            child = PeerChild("fake:plain", (sys.executable, "-S", "-c", code), tmp_path / "fake.log")
            ending.push_async_callback(child.stop)
            return child

        yield one


async def test_it_loads_and_generates(make: Make) -> None:
    child = make()
    assert await child.start(ORDER) == Loaded("fake 1", "bfloat16", 16.0, 8)
    assert await child.generate([(5, 6)], 3) == Generated(((5, 6, 7),), 0.5, 3)
    assert await child.generate([(9,)], 1) == Generated(((9,),), 0.5, 3)


async def test_steps_may_be_unknown(make: Make) -> None:
    child = make(answer('{"outputs": [[1]], "seconds": 1, "steps": None}'))
    await child.start(ORDER)
    assert (await child.generate([(1,)], 1)).steps is None


def until_stopped(process: psutil.Process) -> str:
    """The kernel tells."""
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    return process.status()


async def test_it_is_frozen_whenever_nobody_asks(make: Make) -> None:
    child = make()
    await child.start(ORDER)
    assert child.pid is not None
    process = psutil.Process(child.pid)
    assert until_stopped(process) == psutil.STATUS_STOPPED
    await child.generate([(1,)], 1)
    assert until_stopped(process) == psutil.STATUS_STOPPED


async def test_it_ends_with_all_that_it_started_even_frozen(make: Make, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    child = make(
        f"import subprocess; p = subprocess.Popen(['sleep', '600']); open({str(started)!r}, 'w').write(str(p.pid)); "
        + answer(GOOD)
    )
    await child.start(ORDER)
    await child.generate([(1,)], 1)
    grandchild = psutil.Process(int(started.read_text()))
    await child.stop()
    _, alive = psutil.wait_procs([grandchild], timeout=10)
    assert alive == [] or {one.status() for one in alive} == {psutil.STATUS_ZOMBIE}
    assert child.pid is None


async def test_a_worker_that_dies_is_reported_with_its_last_words(make: Make) -> None:
    child = make("sys.exit('out of memory')")
    await child.start(ORDER)
    with pytest.raises(Unavailable, match=r"fake:plain ended: out of memory \(log: .*fake\.log\)"):
        await child.generate([(1,)], 1)
    with pytest.raises(Unavailable, match="fake:plain is not running"):
        await child.generate([(1,)], 1)


async def test_a_worker_that_was_killed_said_nothing(make: Make) -> None:
    child = make()
    await child.start(ORDER)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="ended: it said nothing"):
        await child.generate([(1,)], 1)


async def test_a_worker_that_is_late_is_ended(make: Make) -> None:
    child = make("sys.stdin.read()")
    await child.start(ORDER)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
        await child.generate([(1,)], 1, timeout_s=0.05)
    assert child.pid is None


async def test_what_goes_wrong_in_a_worker_is_told_in_its_words(make: Make) -> None:
    child = make(loaded='{"error": "ValueError: no such quantisation"}')
    with pytest.raises(Unavailable, match="fake:plain failed: ValueError: no such quantisation"):
        await child.start(ORDER)


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = PeerChild("fake:plain", (str(tmp_path / "python"),), tmp_path / "log")
    with pytest.raises(Unavailable, match=r"can't be started: No such file or directory: .*python"):
        await child.start(ORDER)


@pytest.mark.parametrize(
    "reply",
    [
        "[1, 2]",
        '{"outputs": [[1, 2]]}',
        '{"outputs": [[1]], "seconds": 1.0, "steps": 1}',
        '{"outputs": [[1, 2], [1, 2]], "seconds": 1.0, "steps": 1}',
        '{"outputs": [[1, "2"]], "seconds": 1.0, "steps": 1}',
        '{"outputs": None, "seconds": 1.0, "steps": 1}',
        '{"outputs": [[1, 2]], "seconds": 0, "steps": 1}',
        '{"outputs": [[1, 2]], "seconds": "1", "steps": 1}',
        '{"outputs": [[1, 2]], "seconds": 1.0, "steps": 0.5}',
        '{"outputs": [[1, 2]], "seconds": 1.0, "steps": 1, "more": 1}',
    ],
)
async def test_what_can_not_be_an_answer_is_refused(make: Make, reply: str) -> None:
    """Fewer tokens than asked for are among it: they would be a head start."""
    child = make(answer(reply))
    await child.start(ORDER)
    with pytest.raises(Unavailable, match="answered nonsense"):
        await child.generate([(1,)], 2)


async def test_what_is_no_json_is_refused(make: Make) -> None:
    child = make("print('Loading weights 100%', flush=True)")
    await child.start(ORDER)
    with pytest.raises(Unavailable, match=r"answered nonsense: .*Loading weights"):
        await child.generate([(1,)], 2)


async def test_an_order_says_all_that_a_worker_needs(make: Make) -> None:
    child = make(loaded='{"engine": json.dumps(m), "weights": "", "bits_per_weight": 4.5, "max_streams": 1}')
    loaded = await child.start(replace(ORDER, assistant="small"))
    for part in ('"verb": "load"', '"model": "weights"', '"mode": "plain"', '"threads": 2', '"assistant": "small"'):
        assert part in loaded.engine
