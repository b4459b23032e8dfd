"""Translates SQLite's errors and values."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from runtime.errors import DatabaseConflict, DatabaseDamaged, DatabaseError, DatabaseUnavailable, DataRefused

# aiosqlite itself raises ValueError, for a connection that is closed.
DRIVER_ERRORS = (sqlite3.Error, ValueError, OverflowError)
UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
TAKEN = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_ROWID,
}


_encode = msgspec.json.Encoder().encode

# What SQLite stores as NULL. Python binds None by way of its adapters, which takes as long as six texts do.
_NULL = float("nan")


# By the name that the migrations declare; Python's own converters are deprecated.
sqlite3.register_converter("timestamptz", lambda raw: datetime.fromisoformat(raw.decode()))


def bind(parameters: Sequence[object]) -> list[object]:
    """The parameters with each time as text of one width, so that the order of texts is that of times."""
    return [
        _NULL if value is None else _as_text(value) if type(value) is datetime else value
        for value in parameters
    ]


def _as_text(time: datetime) -> str:
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    if utc.microsecond:
        # In an eighth of the time of `isoformat`, but without a fraction where there is none.
        return _encode(utc).decode()[1:-1]
    # `isoformat` ends in "+00:00" for UTC.
    return utc.isoformat(timespec="microseconds")[:-6] + "Z"


def is_read_only(error: BaseException) -> bool:
    """Whether an error of ours comes from a connection that cannot write."""
    return _primary_code(error) == sqlite3.SQLITE_READONLY


def is_busy(error: BaseException) -> bool:
    """Whether an error of ours comes from a file that another connection is writing to."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def _primary_code(error: BaseException) -> int:
    code: int = getattr(error.__cause__, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF


def translate(error: Exception) -> DatabaseError:
    """What a driver's error means in our terms."""
    if isinstance(error, (OverflowError, UnicodeError)):
        return DataRefused(str(error))
    if isinstance(error, ValueError) or "closed database" in str(error):
        return DatabaseUnavailable("the database is closed")
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    if code & 0xFF in DAMAGED:
        return DatabaseDamaged(f"the database file is damaged: {error}")
    if code & 0xFF in UNAVAILABLE:
        return DatabaseUnavailable(str(error))
    if code in TAKEN:
        return DatabaseConflict(str(error))
    refused = isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError)) or code == sqlite3.SQLITE_MISUSE
    return DataRefused(str(error)) if refused else DatabaseError(str(error))
