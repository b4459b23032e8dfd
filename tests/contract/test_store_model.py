"""The store against the model, through its public face: generated conversations, restarts in between.

Each example is an owner of its own in the same database, so that the database fills as it goes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, note, settings
from msgspec import structs

from runtime.config import Settings
from runtime.errors import RequestError, SessionNotFound
from runtime.models import AgentSwitch, Approval, ApprovalStatus, MessagePage, Role, Session
from runtime.store.records import SessionKey
from runtime.store.store import Store, open_store
from runtime.store.validation import MAX_NESTING
from runtime.store.write import commands
from runtime.store.write.commands import Command, Request
from runtime.store.write.fork_commands import ForkSession
from runtime.store.write.outcomes import Accepted, Outcome
from tests.reference.conversation import Conversation, StoredMessage, value
from tests.reference.store import Model
from tests.support.interleavings import Interleaving, Step, interleavings, opening, switch_agent
from tests.support.random_values import NOON, OBJECTS, TITLES, TO_BE_NAMED, Chance, raw_message

pytestmark = pytest.mark.usefixtures("uncounted")

EXAMPLES = settings().max_examples
# Not flushed by time while a test runs: reading has to flush (W6).
SETTINGS = Settings(flush_interval=3600)
ROLES: tuple[Role, ...] = get_args(Role)
STATUSES: tuple[ApprovalStatus, ...] = get_args(ApprovalStatus)
BUFFERED = (commands.AppendMessages, commands.ReplaceMessages)


class Reopened:
    """A store that can be closed and opened again; its clock shows what it is told to."""

    def __init__(self, url: str) -> None:
        self.now = NOON
        self._url = url
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        opening = open_store(self._url, SETTINGS, clock=lambda: self.now)
        self.store = await self._stack.enter_async_context(opening)

    async def close(self) -> None:
        await self._stack.aclose()

    async def restart(self) -> None:
        await self.close()
        await self.open()


@pytest.fixture
async def reopened(database_url: str) -> AsyncIterator[Reopened]:
    reopened = Reopened(database_url)
    await reopened.open()
    yield reopened
    await reopened.close()


def call(store: Store, request: Request, **more: Any) -> Awaitable[Outcome | Accepted]:
    """Ask the store for what the request says, in the words of its public face."""
    command = request.command
    method: Callable[..., Awaitable[Outcome | Accepted]] = getattr(store, METHODS[type(command)])
    options = {"owner": request.key.owner, "if_match": request.if_match}
    if request.idempotency is not None:
        options["idempotency_key"] = request.idempotency.key
    arguments = {name: spoken(name, getattr(command, name)) for name in names(command)}
    if command.key.session_id:
        arguments["session_id"] = command.key.session_id
    return method(**arguments, **options, **more)


METHODS: dict[type[Command], str] = {
    commands.CreateSession: "create_session",
    commands.UpdateSession: "update_session",
    ForkSession: "fork_session",
    commands.DeleteSession: "delete_session",
    commands.RestoreSession: "restore_session",
    commands.AppendMessages: "append_messages",
    commands.ReplaceMessages: "replace_messages",
    commands.TruncateMessages: "truncate_messages",
    commands.SwitchAgent: "switch_agent",
    commands.UpdateContext: "update_context",
    commands.CreateApproval: "create_approval",
    commands.DecideApproval: "decide_approval",
    commands.DeleteApproval: "delete_approval",
}
# The fields that a command holds as JSON text.
TEXTS = {
    "title",
    "description",
    "metadata",
    "reason",
    "tool_name",
    "arguments",
    "modified_arguments",
    "feedback",
}


def names(command: Command) -> list[str]:
    return [name for name in command.__struct_fields__ if name not in ("key", "idle_since", "deleted_since")]


def spoken(name: str, field: Any) -> Any:
    """A field of a command as a caller gives it."""
    if name == "messages":
        return [raw_message(message) for message in field]
    return value(field) if name in TEXTS and isinstance(field, str) else field


class Conversations:
    """What one example does, to the model and to the store."""

    def __init__(self, reopened: Reopened, owner: str) -> None:
        self.owner = owner
        self.model = Model()
        self._reopened = reopened
        self._interleaving = Interleaving(self.model)
        self._together: list[tuple[Request, Outcome | str]] = []

    @property
    def store(self) -> Store:
        return self._reopened.store

    async def begin(self) -> None:
        for request in opening():
            mine = self.mine(request.command)
            await self.take(structs.replace(request, command=mine, key=mine.key))
        await self.finish_together()

    def mine(self, command: Command) -> Command:
        """The command among the sessions of this example."""
        key = SessionKey(self.owner + command.key.owner, command.key.session_id or "named")
        return structs.replace(command, key=key)

    async def step(self, step: Step) -> None:
        request = self._interleaving.request(step._replace(command=self.mine(step.command)))
        if isinstance(request.command, ForkSession):
            # It may be made after what is asked at the same time.
            await self.finish_together()
            await self.take(request)
            return await self.finish_together()
        buffered = isinstance(request.command, BUFFERED) and request.if_match is None and step.minute % 2
        await (self.accept(request) if buffered else self.take(request))
        if buffered and step.again:
            await self.check()  # W6: what waits is flushed by whoever reads
        if step.ends:
            await self.finish_together()
        if step.ends and step.minute == 0:
            await self.restart()

    async def take(self, request: Request) -> None:
        """Ask for it together with what is asked at the same time."""
        note(request)
        self._together.append((request, self.model.apply(request)))

    async def finish_together(self) -> None:
        """W3: what is asked at once takes effect in the order in which it is asked."""
        asked, self._together = self._together, []
        answers = await asyncio.gather(*(self.ask(request) for request, _ in asked))
        assert list(answers) == [expected for _, expected in asked]

    async def accept(self, request: Request) -> None:
        """Ask without waiting until it is stored (W5)."""
        await self.finish_together()
        note(("buffered", request))
        expected = self.model.apply(request)
        answer = await self.ask(request, durability="buffered")
        # What is refused when it is stored, and not before, is accepted as well.
        assert answer == expected if isinstance(answer, str) else isinstance(answer, Accepted)

    async def ask(self, request: Request, **more: Any) -> Outcome | Accepted | str:
        self._reopened.now = request.at
        try:
            return await call(self.store, request, **more)
        except RequestError as error:
            return error.code

    async def restart(self) -> None:
        await self.finish_together()
        await self._reopened.restart()
        await self.check()

    async def check(self) -> None:
        """Read everything, in every way that there is, and compare."""
        await self.finish_together()
        for owner in (self.owner, f"{self.owner}ann"):
            await check_lists(self.store, owner, list(self.model.sessions.values()))
            await check_gone(self.store, SessionKey(owner, "never made"))
        for session in self.model.sessions.values():
            if session.deleted_at is None:
                await check_session(self.store, session, self._reopened.now)
            else:
                await check_gone(self.store, session.key)


async def check_gone(store: Store, key: SessionKey) -> None:
    """A session that is deleted, or was never made, is found by nobody."""
    for read in (store.get_session, store.list_messages, store.get_history, store.list_approvals):
        with pytest.raises(SessionNotFound):
            await read(key.session_id, owner=key.owner)


async def check_session(store: Store, session: Conversation, now: datetime) -> None:
    id, owner = session.key.session_id, session.key.owner
    assert await store.get_session(id, owner=owner) == session.session()
    assert await store.get_context(id, owner=owner) == session.context()
    await check_pages(store, session)
    await check_history(store, session)
    await check_switches(store, session)
    for status in (None, *STATUSES):
        listed = await store.list_approvals(id, status=status, owner=owner)
        assert listed.approvals == approvals(session, status, now)


async def check_pages(store: Store, session: Conversation) -> None:
    """R3: every message once and in order, forwards, backwards, by role, by number."""
    id, owner = session.key.session_id, session.key.owner
    for role in (None, *ROLES):
        wanted = [each for each in session.messages if role in (None, each.message.role)]
        await check_forwards(store, session.key, wanted, role)
        await check_backwards(store, session.key, wanted, role)
        numbered = await store.list_numbered_page(id, page=2, page_size=2, role=role, owner=owner)
        check_page(numbered, wanted[2:4], more=len(wanted) > 4)
    last = await store.list_messages(id, last=2, owner=owner)
    check_page(last, session.messages[-2:], more=len(session.messages) > 2)
    assert (last.last_seq, last.version) == (session.last_seq, session.version)


async def check_forwards(
    store: Store, key: SessionKey, wanted: list[StoredMessage], role: Role | None
) -> None:
    after = 0
    for messages in chunks(wanted, 3):
        page = await store.list_messages(key.session_id, after=after, limit=3, role=role, owner=key.owner)
        check_page(page, messages, more=messages[-1:] != wanted[-1:])
        after = page.end_seq or after


async def check_backwards(
    store: Store, key: SessionKey, wanted: list[StoredMessage], role: Role | None
) -> None:
    before = 2**62
    for messages in chunks(wanted[::-1], 2):
        page = await store.list_messages(key.session_id, before=before, limit=2, role=role, owner=key.owner)
        check_page(page, messages[::-1], more=messages[-1:] != wanted[:1])
        before = page.first_seq or before


def chunks(messages: list[StoredMessage], size: int) -> list[list[StoredMessage]]:
    """The messages by pages; one empty page where there are none."""
    return [messages[start : start + size] for start in range(0, max(len(messages), 1), size)]


def check_page(page: MessagePage, messages: list[StoredMessage], *, more: bool) -> None:
    assert page.messages == [as_read(each) for each in messages]
    assert page.seqs == [each.seq for each in messages]
    assert page.more == more


def as_read(stored: StoredMessage) -> dict[str, Any]:
    time = stored.timestamp.isoformat().replace("+00:00", "Z")
    return {**raw_message(stored.message), "seq": stored.seq, "timestamp": time}


async def check_history(store: Store, session: Conversation) -> None:
    history = await store.get_history(session.key.session_id, owner=session.key.owner)
    added = {"seq", "timestamp", "token_count", "metadata"}
    assert history.messages == [
        {name: field for name, field in as_read(each).items() if name not in added}
        for each in session.messages
    ]
    assert (history.version, history.message_count) == (session.version, len(session.messages))
    assert (history.current_agent, history.agent_history) == (session.agent, session.switches)
    stats = await store.get_stats(session.key.session_id, owner=session.key.owner)
    assert (stats.message_count, stats.total_tokens) == (len(session.messages), session.tokens())
    assert stats.last_message_at == (session.messages[-1].timestamp if session.messages else None)


async def check_switches(store: Store, session: Conversation) -> None:
    """Latest first, page by page."""
    before, found = None, []
    while page := await list_switches(store, session.key, before):
        found += page
        before = page[-1].id
    assert found == session.switches[::-1]


async def list_switches(store: Store, key: SessionKey, before: int | None) -> list[AgentSwitch]:
    page = await store.list_switches(key.session_id, limit=2, before=before, owner=key.owner)
    return page.switches


def approvals(session: Conversation, status: ApprovalStatus | None, now: datetime) -> list[Approval]:
    standing = sorted(session.approvals.values(), key=lambda each: (each.created_at, each.call_id))
    return [each.at(now) for each in standing if status in (None, each.at(now).status)]


async def check_lists(store: Store, owner: str, sessions: list[Conversation]) -> None:
    """An owner's sessions, latest activity first, page by page; nobody else's."""
    for include_deleted in (False, True):
        wanted = [
            each
            for each in sorted(sessions, key=lambda each: (each.last_activity, each.number), reverse=True)
            if each.key.owner == owner and (include_deleted or each.deleted_at is None)
        ]
        found, total = await list_all(store, owner, include_deleted)
        assert found == [each.session() for each in wanted]
        assert total == len(wanted)


async def list_all(store: Store, owner: str, include_deleted: bool) -> tuple[list[Session], Any]:
    page = await store.list_sessions(limit=2, include_deleted=include_deleted, count=True, owner=owner)
    found, total = page.sessions, page.total
    while page.next_cursor is not None:
        page = await store.list_sessions(
            limit=2, cursor=page.next_cursor, include_deleted=include_deleted, owner=owner
        )
        found = found + page.sessions
    return found, total


owners = (f"owner-{n}-" for n in itertools.count(1))


def fork(chance: Chance) -> Command:
    return ForkSession(
        chance.of((chance.key, chance.key, TO_BE_NAMED)),
        chance.key.session_id,
        chance.of((None, chance.number(6))),
        title=chance.given(TITLES),
        metadata=chance.given(OBJECTS),
    )


# Switches once more: it takes several of one session to make a list.
@pytest.mark.slow
@given(interleavings(switch_agent, switch_agent, fork, fork, fork, min_size=20, max_size=60))
@settings(
    max_examples=EXAMPLES // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_the_store_does_what_the_model_does(reopened: Reopened, steps: list[Step]) -> None:
    conversations = Conversations(reopened, next(owners))
    await conversations.begin()
    for step in steps:
        await conversations.step(step)
    await conversations.check()
    await conversations.restart()


async def test_what_nests_as_deep_as_it_may_comes_out_of_every_read(reopened: Reopened) -> None:
    deep: Any = {}
    for _ in range(MAX_NESTING - 1):
        deep = {"k": deep}
    store = reopened.store
    await store.create_session("s", metadata=deep, messages=[{"role": "user", "content": [deep["k"]]}])
    await store.create_approval("s", "call", "look", deep)
    await store.update_context("s", deep)
    assert (await store.list_sessions()).sessions == [await store.get_session("s")]
    assert (await store.get_context("s")).metadata == deep
    assert (await store.list_approvals("s")).approvals[0].arguments == deep
    assert (await store.get_history("s")).messages[0]["content"] == [deep["k"]]
