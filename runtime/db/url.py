"""Database URLs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.config import redact_url
from runtime.db.database import Dialect
from runtime.errors import SettingsError

# What other libraries take, after `sqlite://`, for a database in memory.
_IN_MEMORY = re.compile(r"^/?$|:memory:|mode=memory")


@dataclass(frozen=True)
class DatabaseUrl:
    """A parsed database URL. Its text holds no password."""

    dialect: Dialect
    address: str
    """For SQLite the absolute path of the file; for Postgres the URL as its drivers take it."""

    @classmethod
    def parse(cls, url: str) -> DatabaseUrl:
        """Parse a URL. Raises SettingsError, which says what would be right."""
        if not isinstance(url, str):
            raise SettingsError(f"DB_URL: {url!r} is not a URL; for a file write 'sqlite:///{url}'")
        scheme, colon, rest = url.partition("://")
        scheme = scheme.lower().partition("+")[0]
        if url == ":memory:" or (scheme == "sqlite" and _IN_MEMORY.search(rest)):
            raise SettingsError(
                f"DB_URL: {url!r} is in memory, where no acknowledged write survives a crash; "
                "for a test name a file in a temporary directory, as in sqlite:////tmp/test.db"
            )
        match scheme:
            case "sqlite" if colon:
                return cls("sqlite", _sqlite_path(url, rest))
            case "postgresql" | "postgres" if colon:
                return cls("postgres", _postgres_dsn(f"postgresql://{rest}"))
        if url and not colon and "@" not in url:
            raise SettingsError(f"DB_URL: {url!r} is not a URL; for a file write 'sqlite:///{url}'")
        raise SettingsError(
            f"DB_URL: {redact_url(url)!r} names no database that is known here; "
            "expected sqlite:///path/of/a/file.db or postgresql://user:password@host/database"
        )

    def __str__(self) -> str:
        """The URL without its password."""
        return f"sqlite:///{self.address}" if self.dialect == "sqlite" else redact_url(self.address)

    __repr__ = __str__


def _sqlite_path(url: str, rest: str) -> str:
    if "?" in rest or "#" in rest:
        raise SettingsError(
            f"DB_URL: {url!r} has options, and SQLite takes none; in a path write ? as %3F, # as %23"
        )
    name = unquote(rest[1:])
    if not rest.startswith("/") or not name or name.endswith("/") or "\0" in name:
        raise SettingsError(
            f"DB_URL: {url!r} names no file; expected sqlite:///relative.db or sqlite:////absolute.db"
        )
    return str(Path(name).resolve())


def _postgres_dsn(dsn: str) -> str:
    try:
        # Text after the scheme that cannot be split would show in the drivers' errors, password and all.
        _ = urlsplit(dsn).port
    except ValueError:
        raise SettingsError(
            f"DB_URL: {redact_url(dsn)!r} cannot be read: is the port a number, "
            "and is the password percent-encoded?"
        ) from None
    return dsn
