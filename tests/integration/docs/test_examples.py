"""What the pages show is run: the exchange prints what its page says, the drafter drafts, the client gets text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.processes import environment, generate_drafted, paceline, stack, synthetic
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from paceline.testing.letters import LETTERS

ROOT = Path(__file__).parents[3]


def _blocks(language: str, page: str = "docs/protocol.md") -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _shown(verb: str) -> list[list[str]]:
    """Arguments of the commands on the page."""
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [line.split()[1:] for line in lines if f"paceline {verb}" in line]


@contextmanager
def _custom_drafter(folder: Path) -> Iterator[str]:
    """Save the example as its page says and run it on a free port; yields its address."""
    file = folder / "my_drafter.py"
    (example,) = _blocks("python")
    file.write_text(example, "utf-8")
    with subprocess.Popen(
        [sys.executable, file, "127.0.0.1:0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield f"127.0.0.1:{line.split()[-1]}"
        finally:
            process.terminate()


def test_the_worked_example_prints_what_the_page_shows() -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "support" / "worked_example.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout in _blocks("text")


def test_the_example_of_a_drafter_is_short() -> None:
    (example,) = _blocks("python")
    assert len(example.splitlines()) < 60


def test_the_example_of_a_drafter_drafts_and_changes_no_token(tmp_path: Path) -> None:
    ((_, *options),) = _shown("up")
    drafted, plain = _shown("generate")
    assert plain == [*drafted, "--plain"]
    env = environment(tmp_path / "cache")
    with _custom_drafter(tmp_path) as address:
        options = [re.sub(r"(?<=drafters=)\S+", address, option) for option in options]
        with stack(*options, env=env) as running:
            fast = generate_drafted(running, *drafted[1:])
            slow = paceline(*plain, "--target", running.grpc, env=env).json
    assert fast["token_ids"] == slow["token_ids"]
    assert len(fast["token_ids"]) == 120
    speculative = fast["metrics"]["speculative_decoding"]
    assert speculative["num_steps"] < slow["metrics"]["speculative_decoding"]["num_steps"]


def test_the_client_in_the_readme_prints_a_text(tmp_path: Path) -> None:
    (example,) = _blocks("python", "README.md")
    backend = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate(LETTERS)}, " "))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    backend.save(str(tmp_path / "tokenizer.json"))
    settings = [f"coordinator.tokenizer={tmp_path}", f"verifier.synthetic.vocab_size={len(LETTERS)}"]
    with stack(*synthetic(settings=settings), "--drafters", "0", env=environment(tmp_path / "cache")) as running:
        assert "127.0.0.1:50051" in example
        command = [sys.executable, "-c", example.replace("127.0.0.1:50051", running.grpc)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.removesuffix("\n")) == 40
    assert set(done.stdout.removesuffix("\n")) <= set(LETTERS)
