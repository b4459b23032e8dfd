"""The owners of sessions: lists them, and erases all that one of them has."""

from __future__ import annotations

import asyncio
import logging

from msgspec import structs

from runtime.errors import InvalidInput
from runtime.models import ErasedOwner, OwnerPage
from runtime.store.core import Core
from runtime.store.read.owner_reader import OwnerReader
from runtime.store.records import SessionKey
from runtime.store.tokens import Tokens
from runtime.store.validation import check_key, check_limit
from runtime.store.write.commands import DeleteKeys, EraseSession, Request
from runtime.store.write.outcomes import SessionErased

logger = logging.getLogger("agent_runtime.owners")

# How often all that an owner has is looked through, where each time something is found.
PASSES = 10
# Sessions of the first batch, and the fewest and the most of any; the seconds that a batch is meant to take.
FIRST_SESSIONS, FEWEST_SESSIONS, MOST_SESSIONS = 20, 10, 100
TARGET_SECONDS = 0.05
# The most keys that a transaction deletes: the reply of each has up to 64 KiB.
MOST_KEYS = 100


class Owners:
    """Lists owners, and erases what they have, in small transactions beside all other writes (R7)."""

    def __init__(self, core: Core, tokens: Tokens) -> None:
        self._core = core
        self._tokens = tokens
        self._reader = OwnerReader(core.database)

    async def list_owners(self, limit: int, cursor: str | None) -> OwnerPage:
        """A page of owners in the order of their names. Raises InvalidInput."""
        check_limit(limit, "limit")
        await self._core.writer.settle(None)
        return await self._reader.list_owners(limit, cursor)

    async def count(self, owner: str) -> ErasedOwner:
        """What an erasing would erase now."""
        await self._core.writer.settle(None)
        sessions, messages = await self._reader.count(owner)
        return ErasedOwner(owner, sessions, messages, await self._tokens.count_all_of(owner))

    async def erase(self, owner: str) -> ErasedOwner:
        """Erase everything of an owner, and return when no row of it is left.

        What is there at the call is erased. What the owner makes meanwhile is erased too, unless that goes on
        through all passes. Tokens go first: their holders make nothing any more. May be interrupted at any
        point and repeated. Raises NotStored and DatabaseUnavailable if it may be repeated.
        """
        erased = ErasedOwner(owner, 0, 0, 0)
        for _ in range(PASSES):
            # An accepted write may create a session.
            await self._core.writer.settle(None)
            found = await self._erase_once(owner)
            if found is None:
                break
            erased = _sum(erased, found)
        await self._core.eraser.wait_for_released()
        await self._core.indexer.wait_until_merged()
        counts = structs.asdict(erased)
        text = "erased an owner: %d sessions with %d messages, %d tokens"
        logger.info(text, erased.sessions, erased.messages, erased.tokens, extra=counts)
        return erased

    async def _erase_once(self, owner: str) -> ErasedOwner | None:
        """Erase what there is; return the counts, or None if nothing was found.

        The rows that a session leaves, those of its messages, turns and so on, are erased by the eraser, and
        rows that belong to a message go with it. A table of its own that has an owner needs a step here.
        """
        tokens = await self._tokens.erase_all_of(owner)
        sessions, messages = await self._erase_sessions(owner)
        keys = await self._delete_keys(owner)
        return ErasedOwner(owner, sessions, messages, tokens) if tokens or sessions or keys else None

    async def _erase_sessions(self, owner: str) -> tuple[int, int]:
        """Erase all sessions; return how many, and how many messages they had."""
        sessions = messages = 0
        last = limit = FIRST_SESSIONS
        while last == limit:
            limit = self._fitting(last)
            rows = await self._core.database.fetch("list_sessions_to_erase", owner, limit)
            last = len(rows)
            keys = [SessionKey(owner, row["session_id"]) for row in rows]
            now = self._core.clock()
            requests = [Request(EraseSession(key), key, now) for key in keys]
            for outcome in await asyncio.gather(*map(self._core.writer.submit, requests)):
                assert isinstance(outcome, SessionErased), outcome
                sessions += outcome.found
                messages += outcome.message_count
            await self._let_others_write()
        return sessions, messages

    def _fitting(self, last: int) -> int:
        """How many sessions fit into a batch, by the time that one of `last` sessions took."""
        fitting = int(last * TARGET_SECONDS / max(self._core.writer.last_seconds, 0.001))
        return min(max(fitting, FEWEST_SESSIONS), 2 * last, MOST_SESSIONS)

    async def _delete_keys(self, owner: str) -> int:
        deleted, last = 0, MOST_KEYS
        while last == MOST_KEYS:
            rows = await self._core.database.fetch("list_idempotency_keys_to_erase", owner, MOST_KEYS)
            last = len(rows)
            deleted += last
            if rows:
                key = SessionKey(owner, "")
                command = DeleteKeys(key, tuple(row["key"] for row in rows))
                await self._core.writer.submit(Request(command, key, self._core.clock()))
                await self._let_others_write()
        return deleted

    async def _let_others_write(self) -> None:
        """Leave half of the writer's time to other requests, if there are any."""
        if len(self._core.writer.queue):
            await asyncio.sleep(self._core.writer.last_seconds)


def check_owner(owner: str, *, nobody: bool) -> None:
    """Raise InvalidInput unless an owner may be erased: the one without a name only by `nobody`."""
    if nobody and owner:
        raise InvalidInput("owner", "must be empty where nobody is meant")
    if not owner and not nobody:
        raise InvalidInput("owner", "must be a name; what belongs to nobody is erased with `nobody` alone")
    if owner:
        check_key(owner, "owner")


def _sum(one: ErasedOwner, other: ErasedOwner) -> ErasedOwner:
    return ErasedOwner(
        one.owner,
        one.sessions + other.sessions,
        one.messages + other.messages,
        one.tokens + other.tokens,
    )
