"""Messages: appended, read by pages or as a whole, replaced, taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from runtime.api.agent_history import AgentHistoryEntry, agent_history
from runtime.api.long_lists import reply_with_messages
from runtime.api.request import must_exist, preferred_durability, write_options
from runtime.api.responses import AcceptedReply, accepted, reply
from runtime.api.routes import Call, Route
from runtime.errors import InvalidInput
from runtime.models import Durability, Limit, PageNumber, Role, Seq
from runtime.store.messages import (
    MANY_MESSAGES,
    MessageBatch,
    MessageInput,
    NewMessage,
    new_message,
    new_messages,
)
from runtime.store.read.message_pages import NumberedPage
from runtime.store.read.reader import HistoryReading
from runtime.store.validation import invalid_input
from runtime.store.write.outcomes import Accepted, Outcome, Receipt, encode_receipts, put_receipts

StoredMessages = Annotated[
    list[msgspec.Raw], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Message"}})
]


class MessageList(Struct, frozen=True, forbid_unknown_fields=True):
    """Messages, all or none."""

    messages: MessageBatch


class PageQuery(Struct, frozen=True):
    after: Seq | None = None
    before: Seq | None = None
    last: Limit | None = None
    limit: Limit = 100
    page: PageNumber | None = None
    page_size: Limit | None = None
    role: Role | None = None


class CutQuery(Struct, frozen=True):
    after: Seq


class Page(Struct, frozen=True):
    """Messages, oldest first, and the number to read on with: after it, or before it when reading back."""

    session_id: str
    messages: StoredMessages
    last_seq: int
    version: int
    next_after: int | UnsetType | None = UNSET
    next_before: int | UnsetType | None = UNSET


class AppendedReply(Struct, frozen=True):
    """Where each message was stored."""

    session_id: str
    messages: list[Receipt]
    last_seq: int
    version: int


class ReplacedReply(Struct, frozen=True):
    """The place of each message of the history, kept or new."""

    session_id: str
    messages: list[Receipt]
    last_seq: int
    version: int
    message_count: int


class TruncatedReply(Struct, frozen=True):
    """How many messages were taken away."""

    deleted: int
    last_seq: int
    version: int


class SavedReply(Struct, frozen=True):
    """The session has this history now."""

    session_id: str
    message_count: int
    status: Literal["saved"] = "saved"


class HistoryReply(Struct, frozen=True):
    """A whole conversation in the form that chat-completion APIs take."""

    session_id: str
    messages: Annotated[list[msgspec.Raw], Meta(extra_json_schema={"items": {"type": "object"}})]
    message_count: int
    last_activity: datetime
    current_agent: str
    agent_history: list[AgentHistoryEntry]


class MessageOrBatch(MessageBatch):
    """A message by itself, or a list of messages in an object."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse a decoded body. Raises InvalidInput."""
        if isinstance(value, dict) and "messages" in value and "role" not in value:
            return cls(_listed(value))
        return cls([new_message(value)])


class WholeHistory(MessageBatch):
    """A list of messages, bare or in an object."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Parse a decoded body. Raises InvalidInput."""
        return cls(new_messages(value) if isinstance(value, list) else _listed(value))


def _listed(value: Any) -> Sequence[NewMessage]:
    try:
        return convert(value, MessageList, dec_hook=lambda kind, part: kind.parse(part)).messages.items
    except ValidationError as error:
        raise invalid_input(error, "$") from None


async def append_messages(call: Call[None, MessageOrBatch]) -> web.Response:
    """Append one message, or several: all or none."""
    asked = preferred_durability(call.request)
    outcome = await call.store.append_messages(
        call.session_id, call.body, durability=asked, **write_options(call.request)
    )
    return await _written(outcome, AppendedReply, asked, status=201)


async def _written(
    outcome: Outcome | Accepted, kind: type[Struct], asked: Durability | None, *, status: int = 200
) -> web.Response:
    """The reply to a write that may be buffered (W5); `asked` is what the request itself chose."""
    if isinstance(outcome, Accepted):
        return accepted(outcome, asked=asked is not None)
    headers = {"Preference-Applied": "wait"} if asked == "committed" else None
    fields = {name: getattr(outcome, name) for name in kind.__struct_fields__ if name != "status"}
    receipts = fields.get("messages", ())
    if len(receipts) <= MANY_MESSAGES:
        body = msgspec.json.encode(kind(**fields))
    else:
        portions = []
        for portion in encode_receipts(receipts):
            portions.append(portion)
            await asyncio.sleep(0)  # Others get their turn.
        body = put_receipts(msgspec.json.encode(kind(**{**fields, "messages": []})), portions)
    return reply(body, outcome.version, status=status, replayed=outcome.replayed, headers=headers)


async def list_messages(call: Call[PageQuery, None]) -> web.StreamResponse:
    """A page of messages, oldest first: after a number, before one, the last ones, or a numbered page.

    A page has 4 MiB at most, or one message: it may end before the limit, with the number to go on from. A
    numbered page is whole, and sent as it is read if it is larger.
    """
    query = call.query
    _check_one_way(query)
    options: dict[str, Any] = {"role": query.role, "owner": call.owner}
    if query.page is not None or query.page_size is not None:
        options |= {"page": query.page or 1, "page_size": query.page_size or 20}

        async def read() -> NumberedPage:
            return await call.store.read_numbered_page(call.session_id, **options)

        return await reply_with_messages(call.request, read, _describe_numbered)
    page = await call.store.list_messages(
        call.session_id,
        after=query.after,
        before=query.before,
        last=query.last,
        limit=query.limit,
        **options,
    )
    stored = (page.session_id, page.encoded, page.last_seq, page.version)
    if query.before is not None or query.last is not None:
        body = Page(*stored, next_before=page.first_seq if page.more else None)
    else:
        body = Page(*stored, next_after=page.end_seq if page.more else None)
    return reply(body, page.version)


def _describe_numbered(page: NumberedPage) -> Page:
    head = page.head
    next_after = page.end_seq if page.more else None
    return Page(head.key.session_id, [], head.last_seq, head.version, next_after=next_after)


def _check_one_way(query: PageQuery) -> None:
    numbered = "page" if query.page is not None else "page_size"
    given = [name for name in ("after", "before", "last", numbered) if getattr(query, name) is not None]
    if len(given) > 1:
        raise InvalidInput(f"?{given[1]}", f"cannot be used together with `{given[0]}`")


async def replace_messages(call: Call[None, MessageList]) -> web.Response:
    """Make this the history, in one step. An unchanged beginning is kept as it is."""
    asked = preferred_durability(call.request)
    outcome = await call.store.replace_messages(
        call.session_id, call.body.messages, durability=asked, **write_options(call.request)
    )
    return await _written(outcome, ReplacedReply, asked)


async def save_history(call: Call[None, WholeHistory]) -> web.Response:
    """Set the whole history of a session, which is made where it is missing."""
    asked = preferred_durability(call.request)
    outcome = await call.store.replace_messages(
        call.session_id,
        call.body,
        create=not must_exist(call.request),
        durability=asked,
        **write_options(call.request),
    )
    return await _written(outcome, SavedReply, asked)


async def truncate_messages(call: Call[CutQuery, None]) -> web.Response:
    """Take away what follows a message, in one step. Its numbers are not used again."""
    outcome = await call.store.truncate_messages(
        call.session_id, after=call.query.after, **write_options(call.request)
    )
    body = convert(outcome, TruncatedReply, from_attributes=True)
    return reply(body, outcome.version, replayed=outcome.replayed)


async def get_history(call: Call[None, None]) -> web.StreamResponse:
    """The whole conversation in the form that chat-completion APIs take.

    A long one is sent as it is read; where messages are taken away meanwhile, the connection breaks off.
    `agent_history` are the latest handovers, 1,000 and 1 MiB at most.
    """

    async def read() -> HistoryReading:
        return await call.store.read_history(call.session_id, owner=call.owner)

    return await reply_with_messages(call.request, read, _describe_history)


def _describe_history(reading: HistoryReading) -> HistoryReply:
    head = reading.head
    return HistoryReply(
        session_id=head.key.session_id,
        messages=[],
        message_count=head.message_count,
        last_activity=head.last_activity,
        current_agent=reading.context.current_agent,
        agent_history=agent_history(reading.context, reading.switches),
    )


MESSAGES = "/sessions/{session_id}/messages"

ROUTES = (
    Route(
        "POST",
        MESSAGES,
        append_messages,
        {201: AppendedReply, 202: AcceptedReply},
        writes=True,
        buffers=True,
        forms=(MessageInput, MessageList),
    ),
    Route("GET", MESSAGES, list_messages, {200: Page}),
    Route(
        "PUT", MESSAGES, replace_messages, {200: ReplacedReply, 202: AcceptedReply}, writes=True, buffers=True
    ),
    Route("DELETE", MESSAGES, truncate_messages, {200: TruncatedReply}, writes=True),
    Route("GET", "/sessions/{session_id}/history", get_history, {200: HistoryReply}),
    Route("GET", "/history/{session_id}", get_history, {200: HistoryReply}),
    Route(
        "POST",
        "/sessions/{session_id}",
        save_history,
        {200: SavedReply, 202: AcceptedReply},
        writes=True,
        buffers=True,
        forms=(list[MessageInput], MessageList),
    ),
)
