"""Prompt files: what a line may be, and errors that name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paceline.core.errors import InvalidRequest, NotFound
from paceline.training.prompts import TrainingPrompt, count_sources, read_training_prompts


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines), "utf-8")
    return path


def test_a_line_is_a_prompt_turns_or_token_ids(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.jsonl",
        {"prompt": "Grüß dich\u2028!"},
        "",
        {"turns": ["one", "two", "three"], "category": "else"},
        "   ",
        {"token_ids": [0, 5, 7]},
    )
    assert read_training_prompts([file]) == [
        TrainingPrompt((("user", "Grüß dich\u2028!"),)),
        TrainingPrompt((("user", "one"), ("assistant", "two"), ("user", "three"))),
        TrainingPrompt((), (0, 5, 7)),
    ]


def test_files_follow_each_other(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", {"prompt": name}) for name in "cab"]
    assert [one.messages[0][1] for one in read_training_prompts(files)] == ["c", "a", "b"]


def test_lines_may_end_as_on_other_systems(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [one.messages[0][1] for one in read_training_prompts([file])] == ["a", "b"]


def test_sources_and_licences_are_counted(tmp_path: Path) -> None:
    named = {"prompt": "x", "source": "here", "licence": "CC0"}
    file = write(tmp_path / "a.jsonl", named, {"prompt": "x", "source": "there"}, named, {"prompt": "y"})
    assert count_sources(read_training_prompts([file])) == {"here, CC0": 2, "there": 1, "unnamed": 1}


BROKEN: dict[str, tuple[str, str]] = {
    "no JSON": ("{prompt: 1}", "is not JSON .*; mend or delete it"),
    "half a line": ('{"prompt": "a', "is not JSON"),
    "a list": ('["a"]', "is not a JSON object; write"),
    "a text": ('"a"', "is not a JSON object"),
    "nothing known": ('{"text": "a"}', "needs a prompt, turns or token_ids that are not empty"),
    "an empty prompt": ('{"prompt": ""}', "needs a prompt"),
    "a prompt that is no text": ('{"prompt": 5}', "needs a prompt"),
    "a prompt that is null": ('{"prompt": null}', "needs a prompt"),
    "no turns": ('{"turns": []}', "needs a prompt"),
    "turns that are a text": ('{"turns": "a"}', "needs a prompt"),
    "an empty turn": ('{"turns": ["a", ""]}', "needs a prompt"),
    "a turn that is no text": ('{"turns": ["a", {"role": "user"}]}', "needs a prompt"),
    "no token ids": ('{"token_ids": []}', "token_ids in .* must be a list of token numbers that is not empty"),
    "a negative token id": ('{"token_ids": [1, -2]}', "token_ids in .* must be a list"),
    "token ids that are no numbers": ('{"token_ids": ["1"]}', "token_ids in .* must be a list"),
    "token ids with fractions": ('{"token_ids": [1.0]}', "token_ids in .* must be a list"),
    "token ids that are true": ('{"token_ids": [true]}', "token_ids in .* must be a list"),
    "one token id": ('{"token_ids": 5}', "token_ids in .* must be a list"),
    "token ids that are null": ('{"token_ids": null}', "token_ids in .* must be a list"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, case: str) -> None:
    line, message = BROKEN[case]
    file = write(tmp_path / "a.jsonl", {"prompt": "fine"}, "", line, {"prompt": "fine"})
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_training_prompts([write(tmp_path / "b.jsonl", {"prompt": "fine"}), file])
    assert f"line 3 of {file}" in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no file .*nowhere\.jsonl"):
        read_training_prompts([tmp_path / "nowhere.jsonl"])
    with pytest.raises(NotFound, match="there is no file"):
        read_training_prompts([tmp_path])
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(InvalidRequest, match=r"a\.jsonl is not UTF-8 text"):
        read_training_prompts([tmp_path / "a.jsonl"])


def test_files_without_a_single_prompt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no prompt in .*a\.jsonl, .*b\.jsonl"):
        read_training_prompts([write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl", "", " ")])
