"""One table names every span, attribute and instrument; all that is in it is used, and nothing else is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from paceline.telemetry.metrics import CoordinatorMetrics, DrafterMetrics, VerifierMetrics
from paceline.telemetry.names import INSTRUMENTS, SPANS, Attribute, Instrument, Metric, Span

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "paceline" / "telemetry" / "names.py"
PACKAGES = ("paceline", "coordinator", "verifier_service", "drafter_service")
SOURCES = {
    file: file.read_text("utf-8")
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if "v1" not in file.parts and file != TABLE
}


def members(table: type) -> dict[str, object]:
    return {name: value for name, value in vars(table).items() if name.isupper()}


def used(table: str) -> set[str]:
    return {name for text in SOURCES.values() for name in re.findall(rf"\b{table}\.([A-Z_]+)\b", text)}


def literals() -> list[tuple[str, str]]:
    """Every text in the code that is no documentation, with its file."""
    found: list[tuple[str, str]] = []
    for file, text in SOURCES.items():
        tree = ast.parse(text)
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            (node.value, str(file.relative_to(ROOT)))
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
        ]
    return found


@pytest.mark.parametrize(("name", "table"), [("Span", Span), ("Attribute", Attribute), ("Metric", Metric)])
def test_every_name_of_the_table_is_used_and_every_used_name_is_in_it(name: str, table: type) -> None:
    assert used(name) == set(members(table))


def test_every_span_is_explained() -> None:
    assert set(SPANS) == set(members(Span).values())
    assert all(text.endswith(".") for text in SPANS.values())


def test_no_name_is_given_twice() -> None:
    for table in (Span, Attribute):
        assert len(set(members(table).values())) == len(members(table))
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS) == len(members(Metric))


def test_no_metric_attribute_or_dotted_span_is_spelt_out_elsewhere() -> None:
    names = {instrument.name for instrument in INSTRUMENTS} | {str(value) for value in members(Attribute).values()}
    names |= {str(value) for value in members(Span).values() if "." in str(value)}
    assert [(text, file) for text, file in literals() if text in names] == []


def test_no_span_is_recorded_under_a_name_of_its_own() -> None:
    calls = [match for text in SOURCES.values() for match in re.findall(r"racer\.(?:span|record)\(\s*([^,\s)]+)", text)]
    assert len(calls) >= 9
    assert [call for call in calls if not call.startswith("Span.")] == []


def test_no_instrument_is_made_outside_of_the_one_room() -> None:
    makers = [
        str(file.relative_to(ROOT))
        for file, text in SOURCES.items()
        if re.search(r"\b(Counter|Gauge|Histogram)\(", text)
    ]
    assert makers == ["paceline/telemetry/metrics.py"]


COMMON = {Metric.SESSIONS}
MEMORY = {Metric.DRAFTER_WEIGHTS, Metric.DRAFTER_STATE}
OF_VERIFIER = COMMON | MEMORY | {
    Metric.STEP_SECONDS, Metric.STEP_ROWS, Metric.WAIT_SECONDS, Metric.GENERATION_TOKENS, Metric.PREFILL_TOKENS,
    Metric.DRAFTS, Metric.DRAFT_TOKENS, Metric.ACCEPTED_TOKENS, Metric.ACCEPTED_PER_POS, Metric.DRAFTS_RECEIVED,
    Metric.DRAFT_SECONDS, Metric.DRAFTED_TOKENS, Metric.FEATURE_BYTES, Metric.KV_BYTES,
    Metric.RELOADS,
}  # fmt: skip
OF_DRAFTER = (
    COMMON
    | MEMORY
    | {Metric.DRAFT_SECONDS, Metric.DRAFTED_TOKENS, Metric.FEATURE_BYTES, Metric.KV_BYTES, Metric.RELOADS}
)
OF_COORDINATOR = COMMON | {
    Metric.REQUESTS, Metric.REQUEST_SECONDS, Metric.FIRST_TOKEN_SECONDS, Metric.FALLBACKS, Metric.VERDICTS,
}  # fmt: skip


@pytest.mark.parametrize(
    ("process", "instruments"),
    [(VerifierMetrics, OF_VERIFIER), (DrafterMetrics, OF_DRAFTER), (CoordinatorMetrics, OF_COORDINATOR)],
)
def test_every_process_registers_exactly_its_own_instruments(process: type, instruments: set[Instrument]) -> None:
    registry = CollectorRegistry()
    process(registry)
    families = {family.name: (family.type, family.documentation) for family in registry.collect()}
    assert families == {one.name: (one.kind, one.help) for one in instruments}


def test_every_instrument_belongs_to_some_process() -> None:
    assert set(INSTRUMENTS) == OF_VERIFIER | OF_DRAFTER | OF_COORDINATOR
