"""Imports: stores the sessions of another database or of an export, and reads back what was stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

from msgspec import Struct, structs

from runtime.errors import Overloaded, RequestError
from runtime.retry import retry_until_available
from runtime.store.core import Core
from runtime.store.records import (
    ApprovalRow,
    Details,
    Head,
    ImportMark,
    MessageRow,
    SessionKey,
    SwitchRow,
    TurnRow,
    approval_row_from,
    details_from,
    head_from,
    turn_row_from,
)
from runtime.store.validation import json_list
from runtime.store.write.commands import Command, ImportMessages, ImportSession
from runtime.store.write.outcomes import Imported, Outcome

# How long to try to store a load while the database is away, in seconds.
PATIENCE = 120.0
# How many messages, and how many bytes of them, are read back at a time.
ROWS, BYTES = 1000, 4 * 1024 * 1024
# More than the columns of one row can have.
ANY_SIZE = 2**31 - 1


class StoredImport(Struct, frozen=True):
    """A stored session that was imported, its messages left out: the command that would make it."""

    head: Head
    mark: ImportMark
    command: ImportSession


class Imports:
    """Stores sessions as they were elsewhere. Part of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database

    async def count_others(self, source: str) -> int:
        """How many sessions of any owner there are that do not come from this source."""
        [row] = await self._database.fetch("count_sessions_of_others", source)
        count: int = row["sessions"]
        return count

    async def store(
        self, commands: Sequence[ImportSession | ImportMessages]
    ) -> list[Imported | RequestError]:
        """Store commands, in their order within a session; return the outcome or the error of each.

        It is repeated while the database is away: what is stored already is not stored again. Raises
        NotStored and DatabaseError when that lasts.
        """
        return await retry_until_available(lambda: self._store(commands), PATIENCE, "the import")

    async def _store(self, commands: Sequence[Command]) -> list[Imported | RequestError]:
        requests = [await self._core.submitter.request(command, {}) for command in commands]
        waiting: list[Awaitable[Outcome]] = []
        results: list[Outcome | BaseException] = []
        for request in requests:
            try:
                waiting.append(self._core.writer.submit(request))
            except Overloaded:
                # The queue has room again once it has stored what it holds of this load.
                results += await asyncio.gather(*waiting, return_exceptions=True)
                waiting = [self._core.writer.submit(request)]
        results += await asyncio.gather(*waiting, return_exceptions=True)
        return [_outcome(result) for result in results]

    async def find(self, keys: Sequence[SessionKey]) -> dict[SessionKey, StoredImport]:
        """Those of the sessions that were imported, deleted ones too."""
        names = json_list((key.owner, key.session_id) for key in keys)
        heads = {row["id"]: head_from(row) for row in await self._database.fetch("list_heads", names)}
        rows = await self._database.fetch("list_imports", json_list(heads))
        marks = {id: ImportMark(*mark) for id, *mark in rows}
        ids = json_list(marks)
        switches: dict[int, list[SwitchRow]] = {id: [] for id in marks}
        for id, *switch in await self._database.fetch("list_imported_switches", ids):
            switches[id].append(SwitchRow(*switch))
        approvals: dict[int, list[ApprovalRow]] = {id: [] for id in marks}
        for row in await self._database.fetch("list_imported_approvals", ids):
            approvals[row["session_db_id"]].append(approval_row_from(row))
        turns: dict[int, list[TurnRow]] = {id: [] for id in marks}
        for row in await self._database.fetch("list_imported_turns", ids):
            turns[row["session_db_id"]].append(turn_row_from(row))
        bare = {id for (id,) in await self._database.fetch("list_bare_sessions", ids)}
        found = {}
        for row in await self._database.fetch("list_details", ids, ANY_SIZE):
            id = row["id"]
            command = structs.replace(
                _command(heads[id], marks[id].source, details_from(row)),
                switches=tuple(switches[id]),
                approvals=tuple(approvals[id]),
                turns=tuple(turns[id]),
                is_bare=id in bare,
            )
            found[heads[id].key] = StoredImport(heads[id], marks[id], command)
        return found

    async def list_messages(self, heads: Sequence[Head]) -> dict[int, list[MessageRow]]:
        """All messages of sessions that are as they were imported, by session db id: of small sessions."""
        found: dict[int, list[MessageRow]] = {head.id: [] for head in heads}
        for id, *row in await self._database.fetch("list_imported_messages", json_list(found)):
            found[id].append(MessageRow(*row))
        return found

    async def read_messages(self, head: Head) -> AsyncIterator[MessageRow]:
        """The messages of a session, in order, a page at a time."""
        seq = 0
        while seq < head.last_seq:
            page = (head.id, seq, head.last_seq, None, ROWS, BYTES)
            rows = await self._database.fetch("list_page_after", *page)
            # A page that has too many bytes comes out empty.
            for row in rows or await self._database.fetch("list_messages_after", head.id, seq, 1):
                message = MessageRow(*row)
                yield message
                seq = message.seq


def _command(head: Head, source: str, details: Details) -> ImportSession:
    return ImportSession(
        head.key,
        source=source,
        created_at=details.created_at,
        last_activity=head.last_activity,
        context_created_at=details.context_created_at,
        context_updated_at=details.context_updated_at,
        title=details.title,
        description=details.description,
        metadata=details.metadata or "{}",
        is_active=details.is_active,
        deleted_at=head.deleted_at,
        agent=details.current_agent,
        switch_count=details.switch_count,
        context_metadata=details.context_metadata or "{}",
        version=head.version,
        last_seq=head.last_seq,
    )


def _outcome(result: Outcome | BaseException) -> Imported | RequestError:
    if isinstance(result, Imported | RequestError):
        return result
    assert isinstance(result, BaseException), f"an import ended in {result!r}"
    raise result
