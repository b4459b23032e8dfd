"""What SQLite is given for a value."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import example, given
from hypothesis import strategies as st

from runtime.db.sqlite_dialect import bind

zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC) | zones)


@given(times)
@example(datetime(2026, 11, 21, 12, tzinfo=UTC))
@example(datetime(1, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
def test_every_time_is_a_text_of_one_width_in_utc(time: datetime) -> None:
    (text,) = bind([time])
    assert text == time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def test_none_is_null_wherever_a_statement_looks_at_it() -> None:
    values = bind([None, "text", 1])
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a text, b text, c integer)")
        connection.executemany("INSERT INTO t VALUES (?1, ?2, ?3)", [values])
        assert connection.execute("SELECT * FROM t WHERE a IS ?1", values[:1]).fetchall() == [
            (None, "text", 1)
        ]
        assert connection.execute("SELECT coalesce(?1, 'none'), typeof(?1)", values[:1]).fetchall() == [
            ("none", "null")
        ]
