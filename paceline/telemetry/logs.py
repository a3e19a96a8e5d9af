"""JSON logs on standard error: one object per line, an event in lower case and its fields. Prompts are never logged."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from paceline.core.errors import InvalidRequest

LEVELS = ("debug", "info", "warning", "error")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One line of JSON per record; ``extra`` becomes fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def configure(service: str, level: str) -> None:
    """Send all logs of this process to standard error as JSON. Raises ``InvalidRequest`` for an unknown level."""
    if level.lower() not in LEVELS:
        raise InvalidRequest(f"server.log_level: {level!r} is unknown; choose one of {', '.join(LEVELS)}.")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
