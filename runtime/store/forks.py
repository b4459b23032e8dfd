"""Forks: copies sessions inside the database, long ones in portions."""

from __future__ import annotations

from msgspec import structs

from runtime.errors import ForkNotCopied
from runtime.store.core import Core
from runtime.store.records import Head, SessionKey
from runtime.store.submission import WriteOptions
from runtime.store.write.commands import NO_SESSION, Command, HiddenCopy, Request
from runtime.store.write.fork_commands import BeginFork, CopyMessages, ForkSession
from runtime.store.write.outcomes import ForkBegun, Outcome, SessionWritten

# The intended duration of the transaction that copies a portion, in seconds.
TARGET_SECONDS = 0.1
# Messages of the first portion, the most of any portion, and their most bytes.
FIRST_ROWS, MOST_ROWS, MOST_BYTES = 1000, 10_000, 16 * 1024 * 1024


class Forks:
    """Makes forks. Part of the store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def fork(self, command: ForkSession, options: WriteOptions) -> SessionWritten:
        """Make a fork; it becomes visible whole, in one transaction.

        What was copied for one that fails is erased.
        """
        request = await self._core.submitter.request(command, options)
        copies = _Copies(self._core, SessionKey(command.key.owner, command.source), command.after)
        try:
            while True:
                try:
                    wanted = structs.replace(request, copy=copies.copy)
                    return await self._core.submitter.submit(wanted, SessionWritten, options)
                except ForkNotCopied as error:
                    if not error.is_contested:
                        await copies.extend()
        finally:
            # A revealed session is not hidden any more, and stays.
            copies.abandon()


class _Copies:
    """Copies a session into a hidden one, a portion a transaction."""

    def __init__(self, core: Core, source: SessionKey, after: int | None) -> None:
        self._core = core
        self._source = source
        self._after = after
        self._rows = FIRST_ROWS
        self.copy: HiddenCopy | None = None

    def abandon(self) -> None:
        """Let the hidden session be erased, if it is not revealed."""
        if self.copy is not None:
            self._core.eraser.abandon(self.copy.session_db_id)
            self.copy = None

    async def extend(self) -> None:
        """Copy until few messages are left. Begins again if messages were removed meanwhile."""
        head = await self._core.reader.get_head(self._source)
        copy = self.copy
        through = head.last_seq if self._after is None else min(self._after, head.last_seq)
        # A copy that had all of it was refused: somebody has abandoned it.
        if (
            copy is None
            or (copy.source_db_id, copy.cut_version) != (head.id, head.cut_version)
            or copy.through >= through
        ):
            self.abandon()
            begun = await self._write(BeginFork(NO_SESSION, self._core.database.instance))
            assert isinstance(begun, ForkBegun), begun
            copy = self.copy = HiddenCopy(begun.session_db_id, head.id, head.cut_version, 0, 0, 0)
        while copy.through < through:
            copy = self.copy = await self._copy_portion(copy, head, through)

    async def _copy_portion(self, copy: HiddenCopy, head: Head, through: int) -> HiddenCopy:
        while True:
            span = (copy.through, through, head.cut_after, head.cut_through)
            [row] = await self._core.database.fetch("sum_messages_after", head.id, *span, self._rows)
            if row["size"] <= MOST_BYTES or self._rows == 1:
                break
            self._rows = max(1, self._rows // 4)
        end = through if row["message_count"] < self._rows else row["last_seq"]
        await self._write(CopyMessages(NO_SESSION, head.id, copy.session_db_id, copy.through, end))
        seconds = self._core.writer.last_seconds
        fitting = int(self._rows * TARGET_SECONDS / max(seconds, 0.001))
        self._rows = min(max(fitting, 1), 2 * self._rows, MOST_ROWS)
        return structs.replace(
            copy,
            through=end,
            message_count=copy.message_count + row["message_count"],
            token_total=copy.token_total + row["token_total"],
        )

    async def _write(self, command: Command) -> Outcome:
        return await self._core.writer.submit(Request(command, NO_SESSION, self._core.clock()))
