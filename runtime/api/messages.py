"""Messages: appended, read by pages or as a whole, replaced, taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, convert

from runtime.api.body import convert_body
from runtime.api.request import must_exist, preferred_durability, write_options
from runtime.api.respond import AcceptedReply, accepted, reply
from runtime.api.routes import Call, Route
from runtime.errors import InvalidInput
from runtime.models import AgentSwitch, Durability, Limit, MessagePage, PageNumber, Role, Seq
from runtime.store.commands import Accepted, Outcome, Receipt
from runtime.store.messages import MessageInput

# The store parses messages itself, since it keeps the fields that no type names.
NewMessages = Annotated[
    list[Any], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/MessageInput"}})
]
StoredMessages = Annotated[
    list[msgspec.Raw], Meta(extra_json_schema={"items": {"$ref": "#/components/schemas/Message"}})
]


class MessageList(Struct, frozen=True, forbid_unknown_fields=True):
    """Messages, all or none."""

    messages: NewMessages


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
    """Where each message of the history stands, kept or new."""

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
    agent_history: list[AgentSwitch]


@contextmanager
def rooted(place: str, *, instead_of: str = "$") -> Iterator[None]:
    """Name the places in a list of messages as the sender of the whole body sees them."""
    try:
        yield
    except InvalidInput as error:
        problem = error.problems[0]
        if not problem.path.startswith("$["):
            raise
        raise InvalidInput(place + problem.path.removeprefix(instead_of), problem.message) from None


async def append_messages(call: Call[None, Any]) -> web.Response:
    """Append one message, or several: all or none."""
    batch, place, instead_of = call.body, "$.messages", "$"
    if isinstance(batch, dict) and "messages" in batch and "role" not in batch:
        messages = convert_body(batch, MessageList).messages
    else:
        messages, place, instead_of = [batch], "$", "$[0]"
    asked = preferred_durability(call.request)
    with rooted(place, instead_of=instead_of):
        outcome = await call.store.append_messages(
            call.session_id, messages, durability=asked, **write_options(call.request)
        )
    return _written(outcome, AppendedReply, asked, status=201)


def _written(
    outcome: Outcome | Accepted, kind: type[Struct], asked: Durability | None, *, status: int = 200
) -> web.Response:
    """The reply to a write that may be buffered (W5); `asked` is what the request itself chose."""
    if isinstance(outcome, Accepted):
        return accepted(outcome, asked=asked is not None)
    headers = {"Preference-Applied": "wait"} if asked == "committed" else None
    body = convert(outcome, kind, from_attributes=True)
    return reply(body, outcome.version, status=status, replayed=outcome.replayed, headers=headers)


async def list_messages(call: Call[PageQuery, None]) -> web.Response:
    """A page of messages, oldest first: after a number, before one, the last ones, or a numbered page."""
    query = call.query
    _check_one_way(query)
    options: dict[str, Any] = {"role": query.role, "owner": call.owner}
    if query.page is not None or query.page_size is not None:
        page = await call.store.list_numbered_page(
            call.session_id, page=query.page or 1, page_size=query.page_size or 20, **options
        )
    else:
        page = await call.store.list_messages(
            call.session_id,
            after=query.after,
            before=query.before,
            last=query.last,
            limit=query.limit,
            **options,
        )
    return reply(_as_page(page, back=query.before is not None or query.last is not None), page.version)


def _check_one_way(query: PageQuery) -> None:
    numbered = "page" if query.page is not None else "page_size"
    given = [name for name in ("after", "before", "last", numbered) if getattr(query, name) is not None]
    if len(given) > 1:
        raise InvalidInput(f"?{given[1]}", f"cannot be used together with `{given[0]}`")


def _as_page(page: MessagePage, *, back: bool) -> Page:
    stored = (page.session_id, page.encoded, page.last_seq, page.version)
    if back:
        return Page(*stored, next_before=page.first_seq if page.more else None)
    return Page(*stored, next_after=page.end_seq if page.more else None)


async def replace_messages(call: Call[None, MessageList]) -> web.Response:
    """Make this the history, in one step. An unchanged beginning is kept as it is."""
    asked = preferred_durability(call.request)
    with rooted("$.messages"):
        outcome = await call.store.replace_messages(
            call.session_id, call.body.messages, durability=asked, **write_options(call.request)
        )
    return _written(outcome, ReplacedReply, asked)


async def save_history(call: Call[None, Any]) -> web.Response:
    """Set the whole history of a session, which is made where it is missing."""
    bare = isinstance(call.body, list)
    messages = call.body if bare else convert_body(call.body, MessageList).messages
    asked = preferred_durability(call.request)
    with rooted("$" if bare else "$.messages"):
        outcome = await call.store.replace_messages(
            call.session_id,
            messages,
            create=not must_exist(call.request),
            durability=asked,
            **write_options(call.request),
        )
    return _written(outcome, SavedReply, asked)


async def truncate_messages(call: Call[CutQuery, None]) -> web.Response:
    """Take away what follows a message, in one step. Its numbers are not used again."""
    outcome = await call.store.truncate_messages(
        call.session_id, after=call.query.after, **write_options(call.request)
    )
    body = convert(outcome, TruncatedReply, from_attributes=True)
    return reply(body, outcome.version, replayed=outcome.replayed)


async def get_history(call: Call[None, None]) -> web.Response:
    """The whole conversation in the form that chat-completion APIs take."""
    history = await call.store.get_history(call.session_id, owner=call.owner)
    body = HistoryReply(
        session_id=history.session_id,
        messages=history.encoded,
        message_count=history.message_count,
        last_activity=history.last_activity,
        current_agent=history.current_agent,
        agent_history=history.agent_history,
    )
    return reply(body, history.version)


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
