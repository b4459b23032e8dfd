"""The server with one fault planted in it, to see that the checker finds it:

python -m tests.faults.planted FAULT serve
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from runtime import cli as program
from runtime.db.database import Transaction
from runtime.errors import DatabaseUnavailable
from runtime.store.changes import Notice
from runtime.store.follow.subscriptions import Subscriptions
from runtime.store.messages import NewMessage
from runtime.store.read.reader import Reader
from runtime.store.records import Head, SessionKey
from runtime.store.write import plan as planning
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import Outcome, Receipt
from runtime.store.write.plan import Plan
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.queue import Pending, WriteQueue
from runtime.store.write.rules import RULES
from runtime.store.write.writer import Writer

# One in so many goes wrong. Seconds that a commit comes late, and that a stale head is shown.
OFTEN = 10
LATE = 0.05


def _replace(place: object, name: str, function: Callable[..., Any]) -> None:
    setattr(place, name, function)


def _without_keys(batch: Sequence[Pending]) -> list[Pending]:
    """Those that a fault harms: a key lets a request be sent, or written, again without harm."""
    return [pending for pending in batch if pending.request.idempotency is None]


def acknowledge_before_commit() -> None:
    """Callers go on while their batch is still being written."""
    write, write_rows = Writer._write, Writer._write_rows
    batches: list[Sequence[Pending]] = []

    async def note_batch(writer: Writer, batch: Sequence[Pending]) -> Plan:
        batches[:] = [batch]
        return await write(writer, batch)

    async def reply_first(writer: Writer, tx: Transaction, planned: Plan) -> None:
        for pending, outcome in zip(batches[0], planned.outcomes, strict=True):
            pending.resolve(outcome)
        await asyncio.sleep(LATE)
        await write_rows(writer, tx, planned)

    _replace(Writer, "_write", note_batch)
    _replace(Writer, "_write_rows", reply_first)


def drop_notifications() -> None:
    """Who follows a session of an odd id is never woken, neither here nor by another instance."""
    notify = Subscriptions._notify

    def notify_some(subscriptions: Subscriptions, notices: Sequence[Notice]) -> None:
        notify(subscriptions, [notice for notice in notices if notice.session_db_id % 2 == 0])

    _replace(Subscriptions, "_notify", notify_some)


def write_twice() -> None:
    """A batch that is stored is taken for one that is not, and is written again."""
    write, turns = Writer._write, count(1)

    async def doubt(writer: Writer, batch: Sequence[Pending]) -> Plan:
        planned = await write(writer, batch)
        if _without_keys(batch) and next(turns) % OFTEN == 0:
            writer._on_commit(planned.changes)
            raise DatabaseUnavailable("planted: no answer to COMMIT")
        return planned

    _replace(Writer, "_write", doubt)


def repeat_the_effect() -> None:
    """A repeat is answered as the first time, and done a second time as well."""
    replay = planning._replay

    def replay_and_do(batch: Batch, request: Request) -> Outcome | None:
        first = replay(batch, request)
        if first is not None:
            RULES[type(request.command)](batch, request, request.command)
        return first

    _replace(planning, "_replay", replay_and_do)


def forget_keys() -> None:
    """Idempotency keys are not stored."""
    _replace(Batch, "remember", lambda *_: None)


def lose_the_middle() -> None:
    """A message between two others that were appended together is not written."""
    append = PlannedSession.append

    def append_less(session: PlannedSession, messages: Sequence[NewMessage], at: Any) -> list[Receipt]:
        receipts = append(session, messages, at)
        if len(messages) > 2:
            del session.added[-2]
        return receipts

    _replace(PlannedSession, "append", append_less)


def reorder() -> None:
    """Messages that were appended together are stored the other way round."""
    append = PlannedSession.append

    def append_backwards(session: PlannedSession, messages: Sequence[NewMessage], at: Any) -> list[Receipt]:
        return append(session, messages[::-1], at)

    _replace(PlannedSession, "append", append_backwards)


def read_stale_heads() -> None:
    """A head that was read is shown for a while, whatever is written meanwhile."""
    find, known = Reader.find_head, dict[SessionKey, tuple[float, Head | None]]()

    async def find_old(reader: Reader, key: SessionKey) -> Head | None:
        if key not in known or time.monotonic() - known[key][0] > LATE:
            known[key] = time.monotonic(), await find(reader, key)
        return known[key][1]

    _replace(Reader, "find_head", find_old)


def lose_accepted() -> None:
    """Some of what is accepted is never queued."""
    accept, turns = WriteQueue.accept, count(1)

    def accept_most(queue: WriteQueue, request: Request) -> None:
        if next(turns) % OFTEN:
            accept(queue, request)

    _replace(WriteQueue, "accept", accept_most)


def never_flush() -> None:
    """What is accepted waits for somebody who asks for it."""
    accept = WriteQueue.accept

    def accept_only(queue: WriteQueue, request: Request) -> None:
        accept(queue, request)
        if queue._flush_timer is not None:
            queue._flush_timer.cancel()

    _replace(WriteQueue, "accept", accept_only)


def refuse_what_is_stored() -> None:
    """Some callers are told that their write is not stored, though it is."""
    commit, turns = Writer._finish, count(1)

    def finish(writer: Writer, batch: Sequence[Pending], results: Sequence[Any]) -> None:
        for pending in _without_keys(batch):
            if next(turns) % OFTEN == 0:
                pending.committing = False
                pending.pass_deadline()
        commit(writer, batch, results)

    _replace(Writer, "_finish", finish)


FAULTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        acknowledge_before_commit,
        drop_notifications,
        write_twice,
        repeat_the_effect,
        forget_keys,
        lose_the_middle,
        reorder,
        read_stale_heads,
        lose_accepted,
        never_flush,
        refuse_what_is_stored,
    )
}


def command(fault: str) -> list[str]:
    """How to start the server with this fault; none where it is empty."""
    return [sys.executable, "-m", "tests.faults.planted", fault, "serve"]


if __name__ == "__main__":
    if sys.argv[1]:
        FAULTS[sys.argv[1]]()
    sys.exit(program.main(sys.argv[2:]))
