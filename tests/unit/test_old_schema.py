"""The schemas of the older service, told by their columns, and the times that each wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from runtime.errors import SourceUnreadable
from runtime.transfer.old_sqlite import open_old_sqlite
from runtime.transfer.old_times import Times
from runtime.transfer.old_values import decoded, stored
from runtime.transfer.schema import Columns, recognise
from tests.transfer.old_databases import unpack

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def tables_of(folder: Path, name: str) -> dict[str, dict[str, bool]]:
    with open_old_sqlite(unpack(name, folder)) as connection:
        return {table: dict(columns) for table, columns in connection.tables().items()}


@pytest.mark.parametrize(
    ("name", "version", "sessions", "approvals", "local"),
    [
        ("174717a.db", "174717a", "list_inline_sessions", None, "all"),
        ("c4e3664.db", "c4e3664", "list_untitled_sessions", None, "activity"),
        ("ec0971d.db", "ce8d0d0", "list_untitled_sessions", None, "unsure"),
        ("aa20a02.db", "aa20a02", "list_untitled_sessions", "list_approvals", "unsure"),
        ("85e2625.db", "85e2625", "list_numbered_sessions", "list_approvals", "idle"),
        ("b50f487.db", "b50f487", "list_sessions", "list_approvals", "idle"),
        ("6d3bcf2.db", "6d3bcf2", "list_sessions", "list_approvals", "idle"),
        ("d1fce7d.db", "6d3bcf2", "list_sessions", "list_approvals", "idle"),
        ("5b01f1b.db", "0e3dfa5", "list_sessions", "list_requests", "idle"),
    ],
)
def test_each_version_is_told_by_its_columns(
    tmp_path: Path, name: str, version: str, sessions: str, approvals: str | None, local: str
) -> None:
    schema = recognise(tables_of(tmp_path, name))
    found = (schema.version, schema.sessions, schema.approvals, schema.local)
    assert found == (version, sessions, approvals, local)


def test_a_version_between_has_text_keys_and_the_session_id_beside(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, "85e2625.db")
    tables["pending_approvals"]["id"] = True
    assert recognise(tables).version == "a45c035"


def test_tables_of_ours_beside_old_ones_are_passed_over(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, "ec0971d.db")
    tables["pending_approvals"] = {"session_db_id": True, "call_id": True}
    schema = recognise(tables)
    assert (schema.version, schema.approvals) == ("ce8d0d0", None)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "has none of its tables"),
        ({"sessions": {"id": True}}, "has sessions$"),
        ({"sessions": {"owner": True}}, "is a database of agent-runtime itself"),
    ],
)
def test_what_is_no_old_database_is_refused(tables: Columns, said: str) -> None:
    with pytest.raises(SourceUnreadable, match=said):
        recognise(tables)


# Times


def test_a_time_without_a_zone_is_utc_or_local() -> None:
    times = Times(BERLIN, "idle")
    assert times.utc("2026-01-05 12:00:00.000000") == NOON
    assert times.utc("2026-01-05 12:00:00.000000", local=True) == NOON - timedelta(hours=1)
    assert times.utc("2026-07-05 12:00:00", local=True) == datetime(2026, 7, 5, 10, tzinfo=UTC)
    assert times.utc(NOON.astimezone(BERLIN), local=True) == NOON
    assert Times(None, "all").utc("2026-01-05T12:00:00", local=True) == NOON
    assert Times(BERLIN, "idle", all_naive=True).utc(datetime(2026, 1, 5, 13)) == NOON


@pytest.mark.parametrize("value", [None, "", "soon", 5, "2026-13-01 00:00:00", "0001-01-01 00:00:00"])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert Times(BERLIN, "all").utc(value) is None


@pytest.mark.parametrize(
    ("kinds", "activity", "said", "parts"),
    [
        ("activity", "12:00", "12:00", (True, True)),
        ("unsure", "12:00", "12:01", (False, False)),
        ("unsure", "13:01", "12:00", (True, True)),
        ("unsure", "12:00", None, (True, True)),
        ("idle", "12:00", "12:00", (False, False)),
        ("idle", "12:00", None, (True, False)),
    ],
)
def test_which_times_of_a_session_are_local(kinds: Any, activity: str, said: str | None, parts: Any) -> None:
    row: Any = {
        "last_activity": f"2026-01-05 {activity}:00",
        "last_message_at": None if said is None else f"2026-01-05 {said}:00",
    }
    assert Times(BERLIN, kinds).local_parts(row) == parts


# Values


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ('{"a": 1.50, "b": "\\ud83d\\udee0"}', ('{"a":1.50,"b":"🛠"}', False)),
        ('"\\ud83d!"', ('"\\\\ud83d!"', True)),
        ('{"\\udc00": [NaN, -Infinity]}', ('{"\\\\udc00":["nan","-inf"]}', True)),
        ("no json", ('"no json"', False)),
        ("[" * 300 + "]" * 300, ("[" * 300 + "]" * 300, False)),
    ],
)
def test_values_are_stored_as_they_are_or_written_out(text: str, result: tuple[str, bool]) -> None:
    assert stored(decoded(text)) == result


def test_what_is_nested_too_deep_is_written_out_from_some_depth_on() -> None:
    text, is_changed = stored(decoded("[" * 600 + "]" * 600))
    assert is_changed
    assert text.startswith("[" * 250 + '"')
    assert text.count("[") == 600
