"""Log lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

LOGGER = "agent_runtime"

# What a client sent may stand in a message: it must not be able to begin a line of its own.
CONTROL_CHARACTERS = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{9: "\t", 10: "\\n", 0x2028: "\\u2028", 0x2029: "\\u2029"},
}


class TextFormatter(logging.Formatter):
    """`2026-11-21T12:00:00.000Z INFO agent_runtime.app: …`; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(CONTROL_CHARACTERS)


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _time_of(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def configure_logging(level: str, log_format: Literal["text", "json"] = "text") -> None:
    """Send our log lines from this level on to stderr, and those of libraries from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(LOGGER).setLevel(level)
    # It warns of each attempt to reconnect, with a traceback; what that means is logged by us.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
