"""Composes training prompts of many kinds from openly licensed text: summaries, retrieval, questions, translation.

    python docs/training/compose.py --pages usr/share/doc/git --german usr/share/doc/debian/FAQ/de --out prompts.jsonl

``--pages`` are folders of HTML, ``--german`` folders of German HTML, ``--articles`` text files with an article per
line, ``--given`` JSONL files with prompts that are taken as they are. Each may be repeated. Nothing is downloaded.
docs/drafters.md tells which packages the drafter that ships was trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

SUMMARIES = (
    *("Summarize: {}",) * 6,
    "Summarize the following text: {}",
    "{}\n\nSummarize this in a few sentences.",
    "Write a short summary of this article: {}",
)
TRANSLATIONS = (
    *("Translate German to English: {}",) * 6,
    "Translate this German sentence into English: {}",
    "Please translate to English: {}",
    "{}\n\nTranslate this into English.",
)
QUESTIONS = (
    "What is {}?",
    "Describe {}.",
    "Explain {} in your own words.",
    "Why does {} matter?",
    "What do we learn about {}?",
    "How does {} work?",
    "Tell me about {}.",
    "Where does the term {} come from?",
    "When did {} start?",
)
SHORTEST, LONGEST = 500, 1700
"""Characters of a section."""
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ])")


class _Page(HTMLParser):
    """Headings and paragraphs of a page, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[str, str]] = []
        self._text: list[str] | None = None
        self._num_hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("pre", "script", "style"):
            self._num_hidden += 1
        elif tag in ("p", "dd", "li", "h1", "h2", "h3", "h4"):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("pre", "script", "style"):
            self._num_hidden = max(0, self._num_hidden - 1)
        elif self._text is not None and tag in ("p", "dd", "li", "h1", "h2", "h3", "h4"):
            self.parts.append((tag, " ".join("".join(self._text).split())))
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None and not self._num_hidden:
            self._text.append(data)


def pages(folders: Sequence[Path]) -> Iterator[list[tuple[str, str]]]:
    """(tag, text) of every page below the folders."""
    for folder in folders:
        for file in sorted(folder.rglob("*.html")):
            page = _Page()
            page.feed(file.read_text("utf-8", errors="replace"))
            yield page.parts


def sections(folders: Sequence[Path], chance: random.Random) -> list[tuple[str, str]]:
    """(heading, text) of pieces of pages."""
    found = []
    for parts in pages(folders):
        heading, texts = "", list[str]()
        for tag, text in parts:
            if tag.startswith("h"):
                heading = re.sub(r"^[\d.]+\s*", "", text)
            elif len(text) > 60:
                texts.append(text)
                if sum(map(len, texts)) > chance.randint(SHORTEST, LONGEST):
                    found.append((heading, " ".join(texts)[:LONGEST]))
                    texts = []
    return found


def sentences(folders: Sequence[Path]) -> list[str]:
    """German sentences of the pages."""
    texts = [text for parts in pages(folders) for tag, text in parts if not tag.startswith("h")]
    return list(dict.fromkeys(one for text in texts for one in SENTENCE.split(text) if 40 < len(one) < 320))


def compose(args: argparse.Namespace, chance: random.Random) -> Iterator[tuple[str, str]]:
    """(source, prompt)"""
    pieces = sections(args.pages, chance)
    chance.shuffle(pieces)
    articles = [line.strip() for file in args.articles for line in file.read_text("utf-8").split("\n") if line.strip()]
    for text in [*(text for _, text in pieces[: args.each]), *articles]:
        yield "summary", chance.choice(SUMMARIES).format(text[:LONGEST])
    for _ in range(args.each if pieces else 0):
        yield "retrieval", retrieval(pieces, chance)
    for heading, _ in pieces[: args.each // 2]:
        if heading:
            yield "question", chance.choice(QUESTIONS).format(heading)
    german = sentences(args.german)
    for sentence in chance.sample(german, min(len(german), 3 * args.each)):
        yield "translation", chance.choice(TRANSLATIONS).format(sentence)
    for file in args.given:
        yield from given(file)


def retrieval(pieces: Sequence[tuple[str, str]], chance: random.Random) -> str:
    """A few sections, one of which has the answer to the question behind them."""
    few = chance.sample(pieces, min(len(pieces), chance.randint(2, 4)))
    question = chance.choice(QUESTIONS).format(few[0][0].lower())
    chance.shuffle(few)
    return "\n".join(f"{heading} {text}"[: LONGEST // len(few)] for heading, text in few) + "\n" + question


def given(file: Path) -> Iterator[tuple[str, str]]:
    """The prompts of a JSONL file."""
    for line in file.read_text("utf-8").split("\n"):
        if line.strip():
            row = json.loads(line)
            yield str(row.get("source", file.stem)), str(row["prompt"])


def main() -> None:
    """Write the prompts in random order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, what in (
        ("pages", "folder of HTML pages"),
        ("german", "folder of German HTML pages"),
        ("articles", "text file, an article per line"),
        ("given", "JSONL with prompts"),
    ):
        parser.add_argument(f"--{name}", type=Path, action="append", default=[], help=what)
    parser.add_argument("--each", type=int, default=700, help="prompts per kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    chance = random.Random(args.seed)  # noqa: S311 - no secret
    prompts = list(compose(args, chance))
    chance.shuffle(prompts)
    with args.out.open("w", encoding="utf-8") as out:
        for source, prompt in prompts:
            out.write(json.dumps({"source": source, "prompt": prompt}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
