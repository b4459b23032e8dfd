"""Log lines as text, or as one JSON object each."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

LOGGER = "agent_runtime"
# What every record has: any other attribute of a record came with `extra`.
STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

# A message may hold what a client sent, which must not be able to begin a line of its own.
CONTROL_CHARACTERS = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{9: "\t", 10: "\\n", 0x2028: "\\u2028", 0x2029: "\\u2029"},
}


class TextFormatter(logging.Formatter):
    """`2026-11-21T12:00:00.000Z INFO agent_runtime.app: …`; a traceback follows on its own lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        # Translating costs as much as the rest of a line, and hardly any needs it.
        return line if line.isprintable() else line.translate(CONTROL_CHARACTERS)


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, the fields of `extra`, and the exception of an error."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in record.__dict__.items() if name not in STANDARD_FIELDS},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time_of(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def configure_logging(level: str, log_format: Literal["text", "json"] = "text") -> None:
    """Log to stderr: our lines from this level on, those of libraries from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(LOGGER).setLevel(level)
    # asyncpg logs a traceback for each attempt to reconnect; we log what it means.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
