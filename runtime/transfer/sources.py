"""Opens a source by its name: a URL of a database, or the path of a SQLite file or of an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path

from runtime.db.url import DatabaseUrl
from runtime.errors import SettingsError, SourceUnreadable
from runtime.transfer.export_file import ExportFile, is_export
from runtime.transfer.old_database import OldConnection, OldDatabase
from runtime.transfer.source import Source


@contextmanager
def open_source(text: str, owner: str, zone: tzinfo | None, *, allow_cut: bool = False) -> Iterator[Source]:
    """The source that a text names, read-only, as it is now. Its sessions are to belong to `owner`.

    Those of an export keep their owners where that is empty. `zone` is that of times that its program wrote
    as local ones. With `allow_cut` an export without its end is read as far as it is whole. Raises
    SourceUnreadable, also where reading it fails later.
    """
    url = _parse(text)
    try:
        if url.dialect == "sqlite" and is_export(Path(url.address)):
            yield ExportFile(Path(url.address), owner, allow_cut=allow_cut)
            return
        with _open_connection(url) as connection:
            yield OldDatabase(connection, str(url), owner, zone)
    except SourceUnreadable as error:
        name = text if "://" not in text else url
        raise SourceUnreadable(f"SOURCE: {name} {error}") from error


def _parse(text: str) -> DatabaseUrl:
    if "://" not in text:
        return DatabaseUrl("sqlite", str(Path(text).resolve()))
    try:
        return DatabaseUrl.parse(text)
    except SettingsError as error:
        raise SourceUnreadable(str(error).replace("DB_URL", "SOURCE", 1)) from None


@contextmanager
def _open_connection(url: DatabaseUrl) -> Iterator[OldConnection]:
    # psycopg is imported where it is used.
    if url.dialect == "postgres":
        from runtime.transfer.old_postgres import open_old_postgres

        with open_old_postgres(url.address) as postgres:
            yield postgres
    else:
        from runtime.transfer.old_sqlite import open_old_sqlite

        with open_old_sqlite(Path(url.address)) as sqlite:
            yield sqlite
