"""The times of the older service: text or timestamps without a zone, some in UTC, some local."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any

from runtime.db.database import Row
from runtime.transfer.schema import LocalTimes


class Times:
    """Reads times. `zone` is that of the service's local times; without one they are taken for UTC.

    `kinds` says which are local; with `all_naive` every time without a zone is, as on Postgres.
    """

    def __init__(self, zone: tzinfo | None, kinds: LocalTimes, *, all_naive: bool = False) -> None:
        self._zone: tzinfo = zone or UTC
        self._has_zone = zone is not None
        self._kinds = kinds
        # Every time without a zone is a local one.
        self._all_local = all_naive or kinds == "all"

    def utc(self, value: Any, *, local: bool = False) -> datetime | None:
        """A time in UTC; None for what is no time, or one outside of the years 1 to 9999."""
        try:
            time = datetime.fromisoformat(value) if isinstance(value, str) else value
            if not isinstance(time, datetime):
                return None
            if time.tzinfo is None:
                time = time.replace(tzinfo=self._zone if local or self._all_local else UTC)
            return time.astimezone(UTC)
        except (ValueError, OverflowError):
            return None

    def local_parts(self, session: Row) -> tuple[bool, bool]:
        """Whether the last activity of a session is a local time, and whether those of its context are."""
        if self._all_local or not self._has_zone:
            return True, True
        said = self.utc(session["last_message_at"])
        if self._kinds == "idle":
            return said is None, False
        if self._kinds == "activity" or said is None:
            return True, True
        # A local time is nearer to the last message as such than as UTC.
        local, as_utc = self.utc(session["last_activity"], local=True), self.utc(session["last_activity"])
        is_local = local is not None and as_utc is not None and abs(local - said) < abs(as_utc - said)
        return is_local, is_local
