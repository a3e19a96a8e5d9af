"""The pages say what the code does: links, names, commands and tables are compared with their sources."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client import CollectorRegistry

from paceline.cli.app import app
from paceline.config.arguments import parse
from paceline.config.settings import CoordinatorSettings, DrafterSettings, VerifierSettings
from paceline.core import errors
from paceline.telemetry.metrics import CoordinatorMetrics, DrafterMetrics, VerifierMetrics
from paceline.telemetry.names import INSTRUMENTS, SPANS, Attribute
from paceline.v1 import coordinator_pb2, diagnostics_pb2, drafter_pb2, tokens_pb2, verifier_pb2

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"))
    if page.is_file()
)
PROTOS = (tokens_pb2, verifier_pb2, drafter_pb2, coordinator_pb2, diagnostics_pb2)
SERVICES = {
    "coordinator": CoordinatorSettings,
    "verifier_service": VerifierSettings,
    "drafter_service": DrafterSettings,
}
INSTRUMENTED: dict[str, type[Any]] = {
    "coordinator": CoordinatorMetrics,
    "verifier": VerifierMetrics,
    "drafter": DrafterMetrics,
}


def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _links(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\[((?:[^\[\]]|\\\[|\\\])*)\]\(([^)\s]+)\)", _prose(text))


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    titles = re.findall(r"^#+ (.+)$", _prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _section(text: str, title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def _table(text: str) -> list[list[str]]:
    """Cells of all rows but the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    heads = {index - 1 for index, row in enumerate(rows) if set("".join(row)) <= set("-: ")}
    return [row for index, row in enumerate(rows) if index not in heads and index - 1 not in heads]


def _commands(page: Path) -> Iterator[list[str]]:
    """Words of every shell command in the fenced blocks of a page."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "console", "shell"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def _all_commands(program: str) -> list[list[str]]:
    return [words[1:] for page in PAGES for words in _commands(page) if words[0] == program]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for _, target in _links(page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_that_links_to_a_file_is_defined_there(page: Path) -> None:
    for label, target in _links(page.read_text("utf-8")):
        if not target.endswith(".py"):
            continue
        code = (page.parent / target).read_text("utf-8")
        for name in re.findall(r"`([\w.]+)`", label):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:(?:async )?def|class) {part}\b|^\s*{part}\b[^=(]*=", code, re.MULTILINE), (
                    f"{name} is not in {target}"
                )


def test_the_pages_show_commands() -> None:
    assert len(_all_commands("paceline")) > 10
    assert len(_all_commands("python")) >= 3
    assert len(_all_commands("make")) >= 2


@pytest.mark.parametrize("words", _all_commands("paceline"), ids=" ".join)
def test_every_paceline_command_that_is_shown_parses(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    verb = group.commands[words[0]]
    if "--help" not in words:
        verb.make_context(words[0], words[1:])


def test_the_operators_page_names_every_verb_and_every_option_of_up() -> None:
    group: Any = typer.main.get_command(app)
    page = _text("docs/operating.md")
    assert {verb for verb in group.commands if not re.search(rf"[` ]{verb}[` ]", page)} == set()
    options = {name for one in group.commands["up"].params for name in one.opts}
    rows = _table(_section(page, "A stack on one machine"))
    assert {name for row in rows for name in re.findall(r"`(--[\w-]+)`", row[0])} == options


@pytest.mark.parametrize("words", [one for one in _all_commands("python") if one[0] == "-m"], ids=" ".join)
def test_every_service_command_that_is_shown_parses(words: list[str]) -> None:
    parse(SERVICES[words[1]], words[1], "", words[2:], {})


def test_every_make_verb_that_is_mentioned_exists() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", _text("Makefile"), re.MULTILINE))
    mentioned = {
        verb for page in PAGES for verb in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"setup", "test", "demo"} <= mentioned
    assert mentioned <= verbs


def test_the_contributors_table_of_verbs_is_the_makefiles() -> None:
    listed = re.findall(r"^\| `make ([a-z-]+)` \|", _text("CONTRIBUTING.md"), re.MULTILINE)
    assert set(listed) == set(re.findall(r"^([a-z-]+):.*## ", _text("Makefile"), re.MULTILINE)) - {"help"}


def test_the_contributors_table_of_rooms_is_the_import_contract() -> None:
    layers = re.search(r"^layers =\n((?: +.+\n)+)", _text(".importlinter"), re.MULTILINE)
    assert layers is not None
    contract = [{room.strip() for room in line.split("|")} for line in layers[1].splitlines()]
    rows = _table(_section(_text("CONTRIBUTING.md"), "Where things go"))
    assert [{room.replace("/", ".") for room in re.findall(r"`([^`]+)`", row[0])} for row in rows] == contract


def test_the_table_of_metrics_is_the_codes() -> None:
    served = {name: _names_of(kind) for name, kind in INSTRUMENTED.items()}
    expected = [
        [
            f"`{one.name}`",
            one.kind,
            ", ".join(f"`{label}`" for label in one.labels),
            ", ".join(name for name, names in served.items() if one.name in names),
            one.help,
        ]
        for one in INSTRUMENTS
    ]
    assert _table(_section(_text("docs/operating.md"), "Metrics")) == expected


def _names_of(kind: type[Any]) -> set[str]:
    registry = CollectorRegistry()
    kind(registry)
    return {family.name for family in registry.collect()}


def test_the_tables_of_spans_are_the_codes() -> None:
    section = _section(_text("docs/operating.md"), "Spans")
    assert _table(section) == [[f"`{name}`", meaning] for name, meaning in SPANS.items()]
    attributes = {value for name, value in vars(Attribute).items() if name.isupper()}
    assert set(re.findall(r"`(paceline\.\w+)`", section)) == attributes
    tour = _table(_section(_text("docs/tour.md"), "Where each millisecond is recorded"))
    assert {row[1] for row in tour} == {f"`{name}`" for name in SPANS}


def test_the_protocol_page_names_every_service_message_field_and_enum_value() -> None:
    files = [module.DESCRIPTOR for module in PROTOS]
    messages = {name: kind for file in files for name, kind in file.message_types_by_name.items()}
    page = _text("docs/protocol.md")
    words = set(re.findall(r"`([\w.]+)`", page))
    fields = {f"{name}.{field.name}" for name, kind in messages.items() for field in kind.fields}
    assert {word for word in words if word.partition(".")[0] in messages and "." in word} == fields
    assert {name for name, kind in messages.items() if not kind.fields} <= words
    assert {name for file in files for name in file.services_by_name} <= words
    methods = {one.name for file in files for service in file.services_by_name.values() for one in service.methods}
    assert methods <= words
    assert {value.name for file in files for enum in file.enum_types_by_name.values() for value in enum.values} <= words


def test_the_protocol_page_has_the_tree_of_errors() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    expected = {
        f"`{kind.__name__}`": (f"`{kind.code}`", "yes" if kind.retryable else "no")
        for kind in classes
        if kind is not errors.PacelineError and issubclass(kind, errors.PacelineError)
    }
    rows = _table(_section(_text("docs/protocol.md"), "Errors"))
    assert {row[0]: (row[1], row[2]) for row in rows} == expected


def test_the_protocol_page_has_the_scripts_of_the_store_with_their_replies() -> None:
    rows = [row for row in _table(_section(_text("docs/protocol.md"), "Session store")) if "`OK`" in row[-1]]
    lua = {f"`{file.stem}`": file.read_text("utf-8") for file in (ROOT / "paceline" / "store" / "lua").glob("*.lua")}
    replies = {name: set(re.findall(r"return \{'([A-Z]+)'", text)) for name, text in lua.items()}
    assert {row[0]: set(re.findall(r"`([A-Z]+)`", row[2])) for row in rows} == replies


def test_the_protocol_page_has_the_fields_of_a_session_in_the_store() -> None:
    rows = [row for row in _table(_section(_text("docs/protocol.md"), "Session store")) if "`OK`" not in row[-1]]
    code = "".join(file.read_text("utf-8") for file in (ROOT / "paceline" / "store" / "lua").glob("*.lua"))
    written = set(re.findall(r"'([a-z]{1,5})'", code))
    assert {field for row in rows for field in re.findall(r"`(\w+)`", row[0])} == written


def test_the_limits_on_the_protocol_page_are_the_codes() -> None:
    rows = [row for row in _table(_section(_text("docs/protocol.md"), "Limits")) if row[2]]
    assert len(rows) >= 8
    for _, value, link in rows:
        ((label, target),) = _links(link)
        module = importlib.import_module(target.removeprefix("../").removesuffix(".py").replace("/", "."))
        assert int(value) == getattr(module, label.strip("`")), label


def test_every_message_in_the_table_of_troubles_is_the_codes() -> None:
    files = [file for name in (*SERVICES, "paceline") for file in (ROOT / name).rglob("*.py") if "v1" not in file.parts]
    source = re.sub(r'"\s+f?"', "", "".join(file.read_text("utf-8") for file in files))
    rows = _table(_section(_text("docs/operating.md"), "When something is wrong"))
    shown = [text for row in rows for text in re.findall(r"`([^`]+ [^`]+)`", row[0])]
    assert len(shown) > 10
    assert [part for text in shown for part in re.split(r"[….(]+", text) if part.strip() not in source] == []


def test_decisions_are_numbered_listed_and_have_one_form() -> None:
    folder = ROOT / "docs" / "adr"
    pages = sorted(folder.glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    listed = [target for _, target in _links(_text("docs/adr/README.md"))]
    assert listed == [page.name for page in pages]
    for page in pages:
        text = page.read_text("utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        parts = [part for part in re.findall(r"^\*\*(\w[\w ]+?)\.?\*\*", text, re.MULTILINE) if part != "Measured"]
        assert parts == ["Context", "Decision", "Consequences", "What would change our mind"], page.name
        assert len(text.splitlines()) <= 60, page.name
