"""Reading a corpus: text or JSONL, and what is wrong with it said with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.config.settings import DrafterSettings
from paceline.core.errors import InvalidRequest, NotFound
from paceline.core.types import DraftJob, SamplingParams, SessionSpec, StopRules, Tokens
from paceline.drafters import create_drafter
from paceline.drafters.corpus import read_corpus
from paceline.text.tokenizer import vocabulary_digest
from tests.support.tiny_models import write_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return write_tokenizer(tmp_path / "model")


def documents(model: Path, name: str, content: str | bytes) -> list[Tokens]:
    file = model.parent / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, digest = read_corpus(DrafterSettings(corpus=str(file), model=str(model)))
    assert digest == vocabulary_digest(model)
    return found


def test_a_text_is_one_document(model: Path) -> None:
    assert documents(model, "corpus.txt", "t1 t2\nt3") == [(1, 2, 3)]


def test_each_line_of_jsonl_is_a_document(model: Path) -> None:
    rows = [{"text": "t1"}, {"prompt": "t2 t3"}, {"turns": ["t4", "t5"]}, {"text": "t6", "prompt": "t7"}]
    assert documents(model, "c.jsonl", "\n".join(map(json.dumps, rows)) + "\n") == [(1,), (2, 3), (4, 5), (6,)]


def test_line_separators_inside_a_text_and_blank_lines_are_fine(model: Path) -> None:
    content = json.dumps({"text": "t1\u2028t2\x85t3"}, ensure_ascii=False) + "\r\n\n" + json.dumps({"text": "t4"})
    assert documents(model, "c.jsonl", content) == [(1, 2, 3), (4,)]


@pytest.mark.parametrize(
    "line", ["nonsense", "{}", "[]", '"text"', "5", "null", '{"text": 5}', '{"turns": [1]}', '{"prompt": null}']
)
def test_a_line_without_text_is_named(model: Path, line: str) -> None:
    with pytest.raises(InvalidRequest, match=r"line 2 of .*c\.jsonl has no text, prompt or turns"):
        documents(model, "c.jsonl", '{"text": "t1"}\n' + line)


def test_what_is_not_text_is_refused(model: Path) -> None:
    for name in ("c.txt", "c.jsonl"):
        with pytest.raises(InvalidRequest, match="not UTF-8"):
            documents(model, name, b"\x80\x81\xff")


def test_a_missing_file_or_tokenizer_is_said(model: Path) -> None:
    with pytest.raises(NotFound, match="corpus: no file"):
        read_corpus(DrafterSettings(corpus=str(model / "nowhere.txt"), model=str(model)))
    with pytest.raises(InvalidRequest, match="set model to the target's"):
        documents(Path(model), "c.txt", "t1") and read_corpus(DrafterSettings(corpus=str(model.parent / "c.txt")))
    with pytest.raises(NotFound):
        read_corpus(DrafterSettings(corpus=str(model.parent / "c.txt"), model="never-prepared"))


def test_the_suffix_drafter_knows_its_corpus_and_speaks_its_tokenizer(model: Path) -> None:
    (model.parent / "c.txt").write_text("t1 t2 t3 t4")
    drafter = create_drafter(DrafterSettings(drafter="suffix", corpus=str(model.parent / "c.txt"), model=str(model)))
    assert drafter.info.tokenizer_digest == vocabulary_digest(model)
    drafter.open(SessionSpec("s", (9, 2, 3), 3, SamplingParams(), StopRules(9)))
    assert drafter.extend([DraftJob("s", (9, 2, 3), 3, 4)])[0].token_ids == (4,)
