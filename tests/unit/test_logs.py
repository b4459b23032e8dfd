"""Log lines: one a record, whatever a client put into it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from runtime.logs import configure_logging

logger = logging.getLogger("agent_runtime.test")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("agent_runtime")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    # Taken off, not closed, by configure_logging: they are pytest's.
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_text_lines_tell_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logger.info("opened %s", "it")
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO agent_runtime\.test: opened it\n", line)


def test_a_message_cannot_begin_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    logger.info("key %s", "a\r\n2026 ERROR forged\x1b[2J")
    assert capsys.readouterr().err.endswith("key a\\x0d\\n2026 ERROR forged\\x1b[2J\n")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "json")
    logger.debug("a\nb \udc80")
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"]) == ("DEBUG", "agent_runtime.test")
    assert line["message"] == "a\nb \udc80"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", line["time"])


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_exceptions_are_told(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", log_format)
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    text = capsys.readouterr().err
    assert "it failed" in text
    assert "ValueError: broken" in text
    assert text.count("\n") == 1 or log_format == "text"


def test_the_level_is_ours_and_libraries_speak_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("ERROR")
    logger.warning("ours, too quiet")
    logging.getLogger("library").info("theirs, too quiet")
    logging.getLogger("library").warning("theirs, heard")
    text = capsys.readouterr().err
    assert "quiet" not in text
    assert "theirs, heard" in text


def test_json_has_the_fields_of_a_record_as_members(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logger.info("GET %s", "/sessions", extra={"status": 200, "owner": None, "value": object})
    line = json.loads(capsys.readouterr().err)
    assert line.keys() == {"time", "level", "logger", "message", "status", "owner", "value"}
    assert (line["message"], line["status"], line["owner"]) == ("GET /sessions", 200, None)
