"""Loads the rows that planning a batch needs, under the lock on its heads (W2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import UNSET

from runtime.db.database import Row, Transaction
from runtime.models import MAX_SEQ
from runtime.store.cache import Cache
from runtime.store.cuts import MeasuredCut, sum_messages
from runtime.store.messages import NewMessage
from runtime.store.records import (
    LARGE_TEXT,
    Head,
    ImportMark,
    MessageRow,
    SessionKey,
    approval_row_from,
    details_from,
    head_from,
)
from runtime.store.validation import is_key, json_list
from runtime.store.write import commands
from runtime.store.write.batch import PlanInput, StoredReply
from runtime.store.write.commands import Request
from runtime.store.write.erasing import AtOnce
from runtime.store.write.erasing_loader import load_portions, load_small_sessions
from runtime.store.write.fork_commands import BeginFork, ForkSession
from runtime.store.write.fork_loader import load_forks, source_of
from runtime.store.write.labelling_loader import load_unlabelled
from runtime.store.write.rules.messages import is_same
from runtime.store.write.rules.open_calls import calls_in
from runtime.store.write.save_commands import (
    RemoveContext,
    SaveApproval,
    SaveContext,
    SaveSession,
    SetApprovalStatus,
)
from runtime.store.write.save_loader import load_saved
from runtime.store.write.turn_commands import AdvanceTurn, StartTurn
from runtime.store.write.turn_loader import load_turns

# The commands that need a session's details, beside those in `_needs_details`.
_NEED_DETAILS = (
    commands.UpdateSession,
    commands.RestoreSession,
    commands.SwitchAgent,
    commands.UpdateContext,
    SaveSession,
    SaveContext,
    RemoveContext,
    StartTurn,
)
# Messages of a history that are read at a time: at first and after a portion of PORTION_LENGTH characters,
# and at most.
FIRST_PORTION, PORTION_LENGTH, LARGEST_PORTION = 10, 1_000_000, 2000
# Changes of metadata that nothing has to be known for; the characters of large metadata that a batch loads.
_NOT_MERGED = (UNSET, "{}", "null")
MERGED_BYTES = 16 * 1024 * 1024
_MAKERS = (commands.CreateSession, commands.ImportSession, StartTurn, ForkSession, BeginFork)
_IMPORTS = (commands.ImportSession, commands.ImportMessages)
_NAME_AN_APPROVAL = (
    commands.CreateApproval,
    commands.DecideApproval,
    commands.DeleteApproval,
    SetApprovalStatus,
)


class Loader:
    """Loads for the writer. With `sole_writer` the heads in the cache are authoritative (R2).

    Without it another instance may have written since. A batch that only appends to cached sessions is still
    planned from the cache: `update_head` checks the version, and the batch is planned again if a head has
    changed. Any other batch locks all of its heads: two batches that lock in parts could deadlock.
    """

    def __init__(self, cache: Cache, *, sole_writer: bool, at_once: AtOnce | None = None) -> None:
        self._cache = cache
        self._sole_writer = sole_writer
        self._at_once = at_once or AtOnce()

    async def load(self, tx: Transaction, requests: Sequence[Request], *, lock: bool = False) -> PlanInput:
        """Load what the requests name, and as many unused ids as they may need.

        With `lock` no head comes from the cache if another instance may have written it.
        """
        stored = PlanInput(heads=await self._heads(tx, requests, lock))
        await _load_replies(tx, requests, stored)
        # An append, the most frequent command, needs only the head.
        others = [request for request in requests if type(request.command) is not commands.AppendMessages]
        if others:
            await _load_details(tx, others, stored)
            await _load_histories(tx, others, stored)
            await load_turns(tx, others, stored)
            await _load_approvals(tx, requests, stored)
            await _load_imports(tx, others, stored)
            await _Cuts(tx, stored, self._at_once).load(others)
            await load_small_sessions(tx, others, stored, self._at_once)
            await load_portions(tx, others, stored)
            await load_saved(tx, others, stored)
            await load_unlabelled(tx, others, stored)
            await load_forks(tx, requests, stored, self._at_once)
            await _load_new_ids(tx, others, stored)
        return stored

    async def _heads(
        self, tx: Transaction, requests: Sequence[Request], lock: bool
    ) -> dict[SessionKey, Head]:
        keys = {key for request in requests for key in (request.key, source_of(request))}
        heads = {key: head for key in keys if (head := self._cache.head(key)) is not None}
        cached = len(heads) == len(keys) and all(head.deleted_at is None for head in heads.values())
        # Only if every head is sure to be updated does `update_head` check all of their versions.
        if not self._sole_writer and (lock or not cached or not all(map(_only_appends, requests))):
            heads = {}
        if missing := sorted(keys - heads.keys()):
            names = [(key.owner, key.session_id) for key in missing]
            locked = [head_from(row) for row in await tx.fetch("lock_heads", json_list(names))]
            heads.update({head.key: head for head in locked})
            self._cache.note_locked(missing, heads)
        return heads


def _only_appends(request: Request) -> bool:
    """Whether a request is an append that succeeds on any existing session."""
    command = request.command
    return type(command) is commands.AppendMessages and bool(command.messages) and request.if_match is None


async def _load_details(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    needed = (request.key for request in requests if _needs_details(request.command))
    if ids := {head.id for key in needed if (head := stored.heads.get(key)) is not None}:
        rows = await tx.fetch("list_details", json_list(sorted(ids)), LARGE_TEXT)
        stored.details.update({row["id"]: details_from(row) for row in rows})
    await _load_merged_metadata(tx, requests, stored)


async def _load_merged_metadata(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """Load large metadata that is merged with a change: of one session, and of others while there is room."""
    room = MERGED_BYTES
    for request in requests:
        head, command = stored.heads.get(request.key), request.command
        if not isinstance(command, commands.UpdateSession) or command.metadata in _NOT_MERGED or head is None:
            continue
        if room > 0 and stored.details[head.id].metadata is None:
            [row] = await tx.fetch("list_details", json_list([head.id]), MAX_SEQ)
            stored.details[head.id] = details_from(row)
            room -= len(row["metadata"])


def _needs_details(command: commands.Command) -> bool:
    if isinstance(command, commands.CreateSession):
        return command.if_missing
    if isinstance(command, commands.DeleteSession):
        return not command.hard
    if isinstance(command, _IMPORTS):
        # Its end restores a session that was hidden until then.
        return command.is_whole and command.version is not None
    if isinstance(command, AdvanceTurn):
        return command.agent is not None
    if isinstance(command, SaveApproval):
        return command.create
    return isinstance(command, _NEED_DETAILS)


async def _load_approvals(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    starting = {request.key for request in requests if isinstance(request.command, StartTurn)}
    names: set[tuple[int, str]] = set()
    for request in requests:
        if (head := stored.heads.get(request.key)) is not None:
            names |= {(head.id, call_id) for call_id in _named_approvals(request.command)}
            if request.key in starting:
                names |= {(head.id, call_id) for call_id in _made_calls(request.command, stored, head.id)}
    if names:
        for row in await tx.fetch("list_named_approvals", json_list(sorted(names))):
            stored.approvals[row["session_db_id"], row["call_id"]] = approval_row_from(row)


def _named_approvals(command: commands.Command) -> Iterator[str]:
    if isinstance(command, _NAME_AN_APPROVAL):
        yield command.call_id
    elif isinstance(command, AdvanceTurn):
        yield from (approval.call_id for approval in command.approvals)
    elif isinstance(command, StartTurn):
        yield from (part.call_id for part in (command.result, command.verdict) if part is not None)


def _made_calls(command: commands.Command, stored: PlanInput, session_db_id: int) -> Iterator[str]:
    """The calls that may be open when a turn starts: those at the end of the stored history, and those in
    messages of the batch (W3).
    """
    messages = [*stored.open_end(session_db_id), *getattr(command, "messages", ())]
    for message in messages:
        if message.role == "assistant":
            # No approval has an id that is not a key, and Postgres rejects one with a NUL.
            yield from filter(is_key, calls_in(message.tool_calls))


async def _load_imports(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    keys = (request.key for request in requests if isinstance(request.command, _IMPORTS))
    if ids := {head.id for key in keys if (head := stored.heads.get(key)) is not None}:
        for id, *mark in await tx.fetch("list_imports", json_list(sorted(ids))):
            stored.imports[id] = ImportMark(*mark)


async def _load_replies(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    names = {(r.key.owner, r.idempotency.key) for r in requests if r.idempotency is not None}
    if names:
        for row in await tx.fetch("list_idempotency_keys", json_list(sorted(names))):
            stored.replies[row["owner"], row["key"]] = StoredReply(row["fingerprint"], row["reply"])


async def _load_histories(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    replacing: dict[int, list[Sequence[NewMessage]]] = {}
    for request in requests:
        head = stored.heads.get(request.key)
        if isinstance(request.command, commands.ReplaceMessages) and head is not None:
            replacing.setdefault(head.id, []).append(request.command.messages)
    for session_db_id, wanted in replacing.items():
        stored.histories[session_db_id] = await _load_history(tx, session_db_id, wanted)


async def _load_history(
    tx: Transaction, session_db_id: int, wanted: Sequence[Sequence[NewMessage]]
) -> list[MessageRow]:
    """The first messages of a session, at least up to the first that differs from every new history.

    They are read in portions, so that the rest of a long history costs nothing.
    """
    history: list[MessageRow] = []
    limit = FIRST_PORTION
    while wanted:
        rows = await tx.fetch("list_messages_after", session_db_id, history[-1].seq if history else 0, limit)
        start = len(history)
        history += [MessageRow(*row) for row in rows]
        if len(rows) < limit:
            break
        wanted = [
            messages
            for messages in wanted
            if len(messages) > len(history) and all(map(is_same, history[start:], messages[start:]))
        ]
        limit = min(2 * limit, LARGEST_PORTION) if sum(map(_length, rows)) < PORTION_LENGTH else FIRST_PORTION
    return history


class _Cuts:
    """Measures cuts, and decides which messages are erased in the batch's own transaction."""

    def __init__(self, tx: Transaction, stored: PlanInput, at_once: AtOnce) -> None:
        self._tx = tx
        self._stored = stored
        self._short = at_once.rows
        self._rows, self._bytes = at_once.rows, at_once.bytes

    async def load(self, requests: Sequence[Request]) -> None:
        for request in requests:
            head, command = self._stored.heads.get(request.key), request.command
            if head is not None and isinstance(command, commands.TruncateMessages):
                await self._load_truncation(head, command.after, request.measured)
            elif head is not None and isinstance(command, commands.ReplaceMessages):
                await self._load_replacement(head, command.messages)

    async def _load_truncation(self, head: Head, after: int, measured: MeasuredCut | None) -> None:
        at = (head.id, after, head.cut_version)
        if measured is not None and (measured.session_db_id, measured.after, measured.cut_version) == at:
            count, tokens = await sum_messages(self._tx, head, max(after, measured.last_seq), head.last_seq)
            count, tokens = count + measured.message_count, tokens + measured.token_total
            self._stored.cuts[head.id, after] = count, tokens
            self._allow(head, 0, 0)
        else:
            row = await self._sum_some(head, after)
            # A longer cut fails with CutNotMeasured: the writer does not wait for the count.
            if row["message_count"] <= self._short:
                self._stored.cuts[head.id, after] = row["message_count"], row["token_total"]
            self._allow(head, row["message_count"], row["size"])

    async def _load_replacement(self, head: Head, messages: Sequence[NewMessage]) -> None:
        history, kept = self._stored.histories[head.id], 0
        while kept < min(len(history), len(messages)) and is_same(history[kept], messages[kept]):
            kept += 1
        row = await self._sum_some(head, history[-1].seq if history else 0)
        size = sum(map(_length, history[kept:])) + row["size"]
        self._allow(head, len(history) - kept + row["message_count"], size)

    async def _sum_some(self, head: Head, after: int) -> Row:
        span = (after, head.last_seq, head.cut_after, head.cut_through)
        [row] = await self._tx.fetch("sum_messages_after", head.id, *span, self._short + 1)
        return row

    def _allow(self, head: Head, rows: int, size: int) -> None:
        """Let a cut erase this much in the transaction, if the batch's budget allows it."""
        if rows > self._rows or size > self._bytes:
            rows = size = 0
        self._rows -= rows
        self._bytes -= size
        self._stored.cut_at_once[head.id] = min(rows, self._stored.cut_at_once.get(head.id, rows))


def _length(columns: Iterable[object]) -> int:
    return sum(len(column) for column in columns if isinstance(column, str))


async def _load_new_ids(tx: Transaction, requests: Sequence[Request], stored: PlanInput) -> None:
    """One id for each request that may create a session; unused ids leave gaps."""
    makers = [
        request
        for request in requests
        if isinstance(request.command, _MAKERS)
        or (isinstance(request.command, commands.ReplaceMessages | SaveApproval) and request.command.create)
    ]
    erasing = any(commands.is_final(request.command) for request in requests)
    if any(erasing or request.key not in stored.heads for request in makers):
        rows = await tx.fetch("allocate_session_ids", len(makers))
        stored.new_ids = [row["id"] for row in rows]
