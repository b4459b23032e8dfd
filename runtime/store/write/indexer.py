"""Indexes the words of messages for the search, soon after they are stored, in portions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from runtime.db.database import Database, Row
from runtime.errors import AgentRuntimeError, ShuttingDown
from runtime.metrics import Metrics
from runtime.models import MAX_SEQ
from runtime.store.changes import CommittedChange
from runtime.store.paging import count_fitting
from runtime.store.validation import json_list
from runtime.store.words import (
    MAX_WORD_BYTES,
    WORDS_AT_A_TIME,
    first_id,
    owner_mark,
    role_mark,
    session_mark,
    texts_of,
    words_of,
)
from runtime.store.write.commands import NO_SESSION, Command, IndexWords, Request, SearchEntry
from runtime.store.write.writer import Writer

logger = logging.getLogger("agent_runtime.search")

# Numbers of messages, and bytes of their texts, that a portion takes; rows of the queue, and older sessions.
PORTION_MESSAGES, PORTION_BYTES = 300, 256 * 1024
QUEUE_ROWS, SESSIONS = 100, 100
# Seconds in which more gathers, so that a portion is worth a transaction.
GATHER_SECONDS = 0.1
# Of the time of a busy writer, one part in so many is for indexing.
SHARE = 20
# Seconds: what is stored is to be found a second later.
LONGEST_PAUSE = 0.5
# What another writer has queued for so many seconds is indexed here: it may be gone.
LATE_SECONDS = 5.0
# Seconds between two looks for what others have left, after a failure, and between two lines of progress.
LOOK_SECONDS, FAILURE_SECONDS, PROGRESS_SECONDS = 10.0, 1.0, 10.0
# Seconds that an erasing waits for the index to be merged. It goes on afterwards.
MERGE_SECONDS = 30.0
# Pages that one transaction merges.
MERGE_PAGES = 200
Range = tuple[int, int, int]
_decode_ranges = msgspec.json.Decoder(list[Range]).decode


class Indexer:
    """A task that indexes what the queue of the search names, and then the messages from before.

    `is_complete` is true when older messages are indexed. With `is_on` false it only notes that nothing is
    indexed for now: the next start with the search on looks at all sessions.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Callable[[], datetime],
        metrics: Metrics,
        *,
        is_on: bool,
    ) -> None:
        self.is_on = is_on
        self.is_complete = False
        self._database = database
        self._writer = writer
        self._clock = clock
        self._due = asyncio.Event()
        self._progress = asyncio.Event()
        self._noted = self._waiting = self._stored = 0
        self._indexed = -1
        self._wanted = asyncio.Event()
        self._removals = self._merged = self._merging = 0
        self._old: set[int] = set()
        self._left = 0
        self._logged = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="indexer")
        metrics.search_unindexed_sessions.set_function(lambda: self._left)

    def note(self, changes: Sequence[CommittedChange]) -> None:
        """Index the messages that these changes have added, soon."""
        if any(change.added_range for change in changes):
            self._noted += 1
            self._due.set()
        # Short cuts and small sessions are erased at once.
        self._removals += any(change.head is None or "messages" in change.changed for change in changes)

    def note_removals(self) -> None:
        """Messages were removed: their words are to leave the index without a trace."""
        self._removals += 1

    async def catch_up(self, timeout: float) -> bool:
        """Wait until what this process has stored is indexed, for at most `timeout` seconds.

        Return whether all stored messages are, those from before and of other instances too.
        """
        noted = self._noted
        try:
            async with self._hurried(), asyncio.timeout(timeout):
                while self._indexed < noted:
                    await self._progress.wait()
        except TimeoutError:
            return False
        [row] = await self._database.fetch("find_search_progress", self._clock() - timedelta(seconds=timeout))
        return self.is_complete and not row["is_late"]

    async def wait_until_merged(self) -> None:
        """Wait until no word of a removed message is left in the index, for at most MERGE_SECONDS."""
        removals = self._removals
        while not self.is_on and await self._merge():
            pass
        try:
            async with self._hurried(), asyncio.timeout(MERGE_SECONDS):
                while self._merged < removals and not self._task.done():
                    await self._progress.wait()
        except TimeoutError:
            logger.warning("words of erased messages are still being taken out of the index")

    @contextlib.asynccontextmanager
    async def _hurried(self) -> AsyncIterator[None]:
        """Let the task begin at once, and not rest for other writes."""
        self._waiting += 1
        self._due.set()
        self._wanted.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wanted.clear()

    async def close(self) -> None:
        """Stop at once. The next start continues."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                if not self.is_on:
                    [row] = await self._database.fetch("find_search_progress", self._clock())
                    if (row["after_id"], row["through_id"]) != (0, MAX_SEQ):
                        await self._index([], IndexWords(NO_SESSION, backfilled=(0, MAX_SEQ)))
                    return
                await self._index_queue()
                is_busy = not self.is_complete and await self._backfill()
                if not is_busy and not await self._merge():
                    await self._rest()
            except ShuttingDown:
                return
            except AgentRuntimeError as error:
                logger.warning("indexing failed and is retried in %g s: %s", FAILURE_SECONDS, error)
                await asyncio.sleep(FAILURE_SECONDS)
            except Exception:
                # A bug must not end the search for good.
                logger.exception("indexing failed inside the server and is retried in %g s", LOOK_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.5, 1.0)):
                await self._due.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._wanted.wait()

    async def _index_queue(self) -> None:
        """Index what is queued now. What is queued meanwhile comes next."""
        self._due.clear()
        if self._indexed < 0:
            [row] = await self._database.fetch("find_search_progress", self._clock())
            self.is_complete = row["after_id"] >= row["through_id"]
        is_more = True
        while is_more:
            noted, late = self._noted, self._clock() - timedelta(seconds=LATE_SECONDS)
            rows = await self._database.fetch("list_search_queue", self._database.instance, late, QUEUE_ROWS)
            if rows:
                ranges = [each for row in rows for each in _decode_ranges(row["ranges"])]
                await self._index(ranges, IndexWords(NO_SESSION, queue_ids=tuple(row["id"] for row in rows)))
            is_more = len(rows) == QUEUE_ROWS
        self._indexed = noted
        self._note_progress()

    async def _backfill(self) -> bool:
        """Index a portion of the sessions from before; false where none is left."""
        [row] = await self._database.fetch("find_search_progress", self._clock())
        after, through = row["after_id"], min(row["through_id"], row["last_id"])
        sessions: Sequence[Row] = ()
        if after < through:
            sessions = await self._database.fetch("list_sessions_to_index", after, through, SESSIONS)
        if not sessions:
            if after < row["through_id"]:
                await self._index([], IndexWords(NO_SESSION, backfilled=(row["through_id"],) * 2))
                logger.info("the search has indexed all sessions")
            self._left = 0
            self.is_complete = True
            return False
        reached = sessions[-1]["id"]
        done = IndexWords(NO_SESSION, backfilled=(reached, row["through_id"]))
        await self._index([(row["id"], 0, row["last_seq"]) for row in sessions], done)
        self._left = through - reached
        if time.monotonic() - self._logged >= PROGRESS_SECONDS:
            self._logged = time.monotonic()
            logger.info("the search has indexed the sessions up to %d of %d", reached, through)
        return True

    async def _index(self, ranges: list[Range], done: IndexWords) -> None:
        """Index the messages of ranges in portions; the last one notes what is done."""
        started = time.monotonic()
        while ranges:
            started = time.monotonic()
            portion, ranges = _split(ranges, PORTION_MESSAGES)
            rows = await self._database.fetch("list_messages_to_index", json_list(portion))
            count = max(1, count_fitting([row["size"] for row in rows], PORTION_BYTES))
            ranges = [(id, seq - 1, seq) for id, seq, _ in rows[count:]] + ranges
            places = json_list([(id, seq) for id, seq, _ in rows[:count]])
            texts = await self._database.fetch("list_texts_to_index", places) if rows else ()
            entries = tuple([await _entry(row) for row in texts])
            if ranges:
                await self._submit(IndexWords(NO_SESSION, entries), started)
            else:
                done = msgspec.structs.replace(done, entries=entries)
        await self._submit(done, started)

    async def _merge(self) -> bool:
        """Merge some pages of the parts of the index that may have removed words; SQLite leaves them there.

        Return false where there is nothing to do.
        """
        if self._merged == self._removals:
            return False
        segments = {row["segid"] for row in await self._database.fetch("list_word_segments")}
        # All parts in the first step, then those whose merging has begun. If it fails it is repeated.
        pages = MERGE_PAGES if self._old else -MERGE_PAGES
        old = self._old & segments if self._old else segments
        merging = self._merging if self._old else self._removals
        is_left = bool(old) and len(segments) > 1
        if is_left:
            await self._submit(IndexWords(NO_SESSION, merged_pages=pages), time.monotonic())
        self._old, self._merging = (old, merging) if is_left else (set(), 0)
        if not is_left:
            self._merged = merging
            self._note_progress()
        return True

    def _note_progress(self) -> None:
        self._progress.set()
        self._progress.clear()

    async def _submit(self, command: Command, started: float) -> None:
        """Have a portion stored, and leave the most of the time to other writes if there are any."""
        prepared = time.monotonic() - started
        await self._writer.submit(Request(command, NO_SESSION, self._clock()))
        is_busy = self._writer.stored > self._stored + 1
        self._stored = self._writer.stored
        if is_busy:
            seconds = min((prepared + self._writer.last_seconds) * (SHARE - 1), LONGEST_PAUSE)
            # A search that waits goes first.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wanted.wait()


def _split(ranges: list[Range], room: int) -> tuple[list[Range], list[Range]]:
    """The first `room` numbers of ranges, and the rest of them."""
    portion: list[Range] = []
    for n, (id, after, through) in enumerate(ranges):
        if through - after > room:
            portion.append((id, after, after + room))
            return portion, [(id, after + room, through), *ranges[n + 1 :]]
        portion.append((id, after, through))
        room -= through - after
        if not room:
            return portion, ranges[n + 1 :]
    return portion, []


async def _entry(row: Row) -> SearchEntry:
    (session_db_id, seq, role, timestamp, content, tool_calls, owner, session_id) = row
    words = await _distinct_words(texts_of(content, tool_calls))
    words += [owner_mark(owner), session_mark(session_id), role_mark(role)]
    return SearchEntry(session_db_id, seq, first_id(timestamp), " ".join(words))


async def _distinct_words(texts: Sequence[str]) -> list[str]:
    """The distinct words of texts, within MAX_WORD_BYTES; a long text gives way to others meanwhile."""
    found: set[str] = set()
    left, count = MAX_WORD_BYTES, 0
    for text in texts:
        for word, _, _ in words_of(text):
            if word not in found and (left := left - len(word.encode())) >= 0:
                found.add(word)
            count += 1
            if count % WORDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
    return sorted(found)
