"""A log line is one JSON object, whatever is in it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from paceline.core.errors import InvalidRequest
from paceline.telemetry.logs import LEVELS, JsonFormatter, configure


def line(record: logging.LogRecord) -> Any:
    text = JsonFormatter("verifier").format(record)
    assert "\n" not in text
    return json.loads(text)


def record(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    one = logging.LogRecord("paceline.x", level, __file__, 1, message, args, None)
    vars(one).update(fields)
    return one


def test_an_event_with_its_fields() -> None:
    fields = line(record("pool member down", address="a:1", count=2))
    assert datetime.fromisoformat(fields.pop("time")).utcoffset() is not None
    assert fields == {
        "level": "info",
        "service": "verifier",
        "logger": "paceline.x",
        "event": "pool member down",
        "address": "a:1",
        "count": 2,
    }


def test_lines_quotes_and_any_language_stay_in_one_line() -> None:
    assert line(record('say "hi"\n%s', "Grüße 👩"))["event"] == 'say "hi"\nGrüße 👩'


def test_a_field_that_is_no_json_is_written_as_text() -> None:
    assert line(record("x", where={1}))["where"] == "{1}"


def test_a_traceback_is_a_field() -> None:
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        one = record("call failed", level=logging.ERROR)
        one.exc_info = sys.exc_info()
    fields = line(one)
    assert fields["level"] == "error"
    assert fields["exception"].splitlines()[-1] == "ZeroDivisionError: by nothing"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers.clear()
    yield logger
    logger.handlers[:], logger.level = handlers, level


@pytest.mark.parametrize(("level", "shown"), [("info", ["info", "error"]), ("ERROR", ["error"])])
def test_a_process_logs_to_standard_error_from_its_level_on(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    configure("drafter", level)
    for name in ("debug", "info", "error"):
        getattr(logging.getLogger("paceline.y"), name)("event")
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(text)["level"] for text in err.splitlines()] == shown


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest) as caught:
        configure("drafter", "loud")
    assert str(caught.value) == f"server.log_level: 'loud' is unknown; choose one of {', '.join(LEVELS)}."
