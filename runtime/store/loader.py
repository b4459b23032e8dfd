"""Reads what a batch has to know before it is planned, under the lock on its heads (W2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runtime.db.database import Row, Transaction
from runtime.store import commands
from runtime.store.batch import Known, StoredReply
from runtime.store.cache import Cache
from runtime.store.commands import NewMessage, Request, SessionKey
from runtime.store.inputs import is_key, json_list
from runtime.store.rows import approval_row_from, details_from, head_from
from runtime.store.rules.messages import is_same
from runtime.store.rules.open_calls import calls_in
from runtime.store.state import Head, MessageColumns
from runtime.store.turn_commands import AdvanceTurn, StartTurn
from runtime.store.turn_loader import load_turns

# The commands that look at more of a session than its head.
_NEED_DETAILS = (
    commands.UpdateSession,
    commands.RestoreSession,
    commands.SwitchAgent,
    commands.UpdateContext,
    StartTurn,
)
# How many messages of a history are read at a time: first, after a portion of more characters, and at most.
FIRST_PORTION, PORTION_LENGTH, LARGEST_PORTION = 10, 1_000_000, 2000
_NAME_AN_APPROVAL = (commands.CreateApproval, commands.DecideApproval, commands.DeleteApproval)


class Loader:
    """Reads for the writer. `sole_writer` says that the heads in memory are the truth (R2).

    Elsewhere another instance may have written since. Where all sessions of a batch are in memory and only to
    grow, it is planned from there all the same: a head is written only where it is still at that version,
    and else the batch is planned anew (`update_head`). All other batches lock their heads, all of them: of
    two that lock a part at a time, each could wait for the other.
    """

    def __init__(self, cache: Cache, *, sole_writer: bool) -> None:
        self._cache = cache
        self._sole_writer = sole_writer

    async def load(self, tx: Transaction, requests: Sequence[Request], *, lock: bool = False) -> Known:
        """Everything that the requests name, and as many unused ids as they may need.

        With `lock` no head that others may have written comes from memory.
        """
        known = Known(heads=await self._heads(tx, requests, lock))
        await _load_replies(tx, requests, known)
        # An append, which is what is asked most, needs no more than the head.
        others = [request for request in requests if type(request.command) is not commands.AppendMessages]
        if others:
            await _load_details(tx, others, known)
            await _load_histories(tx, others, known)
            await load_turns(tx, others, known)
            await _load_approvals(tx, requests, known)
            await _load_cuts(tx, others, known)
            await _load_new_ids(tx, others, known)
        return known

    async def _heads(
        self, tx: Transaction, requests: Sequence[Request], lock: bool
    ) -> dict[SessionKey, Head]:
        keys = {request.key for request in requests}
        heads = {key: head for key in keys if (head := self._cache.head(key)) is not None}
        if not self._sole_writer and (lock or not _may_be_trusted(requests, keys, heads)):
            heads = {}
        if missing := sorted(keys - heads.keys()):
            names = [(key.owner, key.session_id) for key in missing]
            locked = [head_from(row) for row in await tx.fetch("lock_heads", json_list(names))]
            heads.update({head.key: head for head in locked})
            self._cache.note_locked(missing, heads)
        return heads


def _may_be_trusted(
    requests: Sequence[Request], keys: set[SessionKey], heads: Mapping[SessionKey, Head]
) -> bool:
    """Whether the batch is sure to end in writing every one of these heads, if they still stand."""
    living = all(head.deleted_at is None for head in heads.values())
    return living and len(heads) == len(keys) and all(map(_only_grows, requests))


def _only_grows(request: Request) -> bool:
    """Whether a request is sure to be granted by a session that is there."""
    command = request.command
    return type(command) is commands.AppendMessages and bool(command.messages) and request.if_match is None


async def _load_details(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    needed = (request.key for request in requests if _needs_details(request.command))
    if ids := {head.id for key in needed if (head := known.heads.get(key)) is not None}:
        rows = await tx.fetch("list_details", json_list(sorted(ids)))
        known.details.update({row["id"]: details_from(row) for row in rows})


def _needs_details(command: commands.Command) -> bool:
    if isinstance(command, commands.CreateSession):
        return command.if_missing
    if isinstance(command, commands.DeleteSession):
        return not command.hard
    if isinstance(command, AdvanceTurn):
        return command.agent is not None
    return isinstance(command, _NEED_DETAILS)


async def _load_approvals(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    starting = {request.key for request in requests if isinstance(request.command, StartTurn)}
    names: set[tuple[int, str]] = set()
    for request in requests:
        if (head := known.heads.get(request.key)) is not None:
            names |= {(head.id, call_id) for call_id in _named_approvals(request.command)}
            if request.key in starting:
                names |= {(head.id, call_id) for call_id in _made_calls(request.command, known, head.id)}
    if names:
        for row in await tx.fetch("list_named_approvals", json_list(sorted(names))):
            known.approvals[row["session_db_id"], row["call_id"]] = approval_row_from(row)


def _named_approvals(command: commands.Command) -> Iterator[str]:
    if isinstance(command, _NAME_AN_APPROVAL):
        yield command.call_id
    elif isinstance(command, AdvanceTurn):
        yield from (approval.call_id for approval in command.approvals)
    elif isinstance(command, StartTurn):
        yield from (part.call_id for part in (command.result, command.verdict) if part is not None)


def _made_calls(command: commands.Command, known: Known, session_db_id: int) -> Iterator[str]:
    """The calls that may be open when a turn begins: those at the end of the history, and those that a
    command before it adds to it (W3)."""
    messages = [*known.open_end(session_db_id), *getattr(command, "messages", ())]
    for message in messages:
        if message.role == "assistant":
            # An id that is no key is no approval's, and with a NUL in it no text of Postgres.
            yield from filter(is_key, calls_in(message.tool_calls))


async def _load_replies(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    names = {(r.key.owner, r.idempotency.key) for r in requests if r.idempotency is not None}
    if names:
        for row in await tx.fetch("list_idempotency_keys", json_list(sorted(names))):
            known.replies[row["owner"], row["key"]] = StoredReply(row["fingerprint"], row["reply"])


async def _load_histories(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    replacing: dict[int, list[Sequence[NewMessage]]] = {}
    for request in requests:
        head = known.heads.get(request.key)
        if isinstance(request.command, commands.ReplaceMessages) and head is not None:
            replacing.setdefault(head.id, []).append(request.command.messages)
    for session_db_id, wanted in replacing.items():
        known.histories[session_db_id] = await _load_history(tx, session_db_id, wanted)


async def _load_history(
    tx: Transaction, session_db_id: int, wanted: Sequence[Sequence[NewMessage]]
) -> list[MessageColumns]:
    """The first messages of a session, up to one that differs from every history that is wanted.

    They are read in portions, so that neither those that follow nor the time to read them matter.
    """
    history: list[MessageColumns] = []
    limit = FIRST_PORTION
    while wanted:
        rows = await tx.fetch("list_messages_after", session_db_id, history[-1][0] if history else 0, limit)
        start = len(history)
        history += map(tuple, rows)
        if len(rows) < limit:
            break
        wanted = [
            messages
            for messages in wanted
            if len(messages) > len(history) and all(map(is_same, history[start:], messages[start:]))
        ]
        limit = min(2 * limit, LARGEST_PORTION) if sum(map(_length, rows)) < PORTION_LENGTH else FIRST_PORTION
    return history


def _length(row: Row) -> int:
    return sum(len(column) for column in row if isinstance(column, str))


async def _load_cuts(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    for request in requests:
        head = known.heads.get(request.key)
        if isinstance(request.command, commands.TruncateMessages) and head is not None:
            after = request.command.after
            (row,) = await tx.fetch("sum_messages_after", head.id, after)
            known.cuts[head.id, after] = (row["message_count"], row["token_total"])


async def _load_new_ids(tx: Transaction, requests: Sequence[Request], known: Known) -> None:
    """One id for each request that may make a session: the gaps that this leaves cost nothing."""
    makers = [request for request in requests if _makes_session(request.command)]
    erasing = any(isinstance(r.command, commands.DeleteSession) and r.command.hard for r in requests)
    if any(erasing or request.key not in known.heads for request in makers):
        rows = await tx.fetch("allocate_session_ids", len(makers))
        known.new_ids = [row["id"] for row in rows]


def _makes_session(command: commands.Command) -> bool:
    replaces = isinstance(command, commands.ReplaceMessages) and command.create
    return replaces or isinstance(command, commands.CreateSession | StartTurn)
