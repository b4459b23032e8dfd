"""Sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, convert, structs

from runtime.api.authorization import make_room
from runtime.api.request import must_exist, write_options
from runtime.api.responses import location, no_content, reply
from runtime.api.routes import DIALECT, Call, Route
from runtime.errors import InvalidInput, SessionExists
from runtime.models import MAX_LIMIT, Cleaned, Key, Limit, Seq, Session, SessionPage, Text, Time
from runtime.store.messages import MessageBatch
from runtime.store.validation import JsonObject
from runtime.store.write.outcomes import SessionWritten

# A century bounds what is meant as an age; it also keeps times within the calendar.
Hours = Annotated[float, Meta(ge=0, le=876_600)]
Days = Annotated[float, Meta(ge=0, le=36_525)]


class NewSession(Struct, frozen=True, forbid_unknown_fields=True):
    """A session to make under the id of the path."""

    title: Text | None = None
    description: Text | None = None
    metadata: JsonObject | None = None
    agent: Key | None = None
    messages: MessageBatch | UnsetType = UNSET


class NewNamedSession(NewSession, frozen=True, forbid_unknown_fields=True):
    """A session to make; its id is made as well where none is given."""

    session_id: Key | None = None


class SessionChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; the rest stays."""

    title: Text | UnsetType | None = UNSET
    description: Text | UnsetType | None = UNSET
    metadata: JsonObject | UnsetType | None = UNSET
    is_active: bool | UnsetType = UNSET


class Fork(Struct, frozen=True, forbid_unknown_fields=True):
    """What a fork has, and what of it is not as in the session that is copied."""

    after: Seq | None = None
    session_id: Key | None = None
    title: Text | UnsetType | None = UNSET
    metadata: JsonObject | UnsetType | None = UNSET


class CleanupOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a session may be idle, and how long a deleted one is kept; a dry run counts only."""

    max_age_hours: Hours = 24
    hard_delete_after_days: Days = 30
    dry_run: bool = False


class ListQuery(Struct, frozen=True):
    limit: Limit = 50
    cursor: str | None = None
    include_deleted: bool = False
    count: bool = False
    agent: Key | None = None
    is_active: bool | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    active_after: Time | None = None
    active_before: Time | None = None
    metadata: tuple[tuple[str, str], ...] = ()


class DeleteQuery(Struct, frozen=True):
    hard: bool = False


class Stats(Struct, frozen=True):
    """What a session has grown to."""

    session_id: str
    message_count: int
    total_tokens: int
    last_message_at: datetime | None
    created_at: datetime
    last_activity: datetime


async def create_session(call: Call[None, NewNamedSession | None]) -> web.Response:
    """Make a session."""
    body = call.body or NewNamedSession()
    return await _create(call, body.session_id, body, if_missing=False)


async def ensure_session(call: Call[None, NewSession | None]) -> web.Response:
    """Make a session where it is missing."""
    if must_exist(call.request):
        await call.store.get_session(call.session_id, owner=call.owner)
    return await _create(call, call.session_id, call.body or NewSession(), if_missing=True)


async def _create(
    call: Call[Any, Any], session_id: str | None, body: NewSession, *, if_missing: bool
) -> web.Response:
    outcome = await call.store.create_session(
        session_id,
        title=body.title,
        description=body.description,
        metadata=body.metadata,
        agent=body.agent,
        messages=body.messages or (),
        if_missing=if_missing,
        **write_options(call.request),
    )
    return await _written(call, outcome)


async def _written(call: Call[Any, Any], outcome: SessionWritten) -> web.Response:
    await make_room(call.request, len(memoryview(outcome.session.encoded_metadata)))
    return reply(
        outcome.session,
        outcome.version,
        status=201 if outcome.created else 200,
        replayed=outcome.replayed,
        headers={"Location": location(outcome.session_id)} if outcome.created else None,
    )


async def list_sessions(call: Call[ListQuery, None]) -> web.Response:
    """A page of sessions, latest activity first: of 4 MiB at most, or one. It may end before the limit."""
    query = call.query
    if call.request.app[DIALECT].lists_all_sessions and not call.request.query_string:
        query = ListQuery(limit=MAX_LIMIT, count=True)
    try:
        return reply(await call.store.list_sessions(owner=call.owner, **structs.asdict(query)))
    except InvalidInput as error:
        [problem] = error.problems
        raise InvalidInput("?" + problem.path.removeprefix("$."), problem.message) from None


async def get_session(call: Call[None, None]) -> web.Response:
    """One session."""
    session = await call.store.get_session(call.session_id, owner=call.owner)
    return reply(session, session.version)


async def update_session(call: Call[None, SessionChange]) -> web.Response:
    """Change what the body names."""
    changes = structs.asdict(call.body)
    outcome = await call.store.update_session(call.session_id, **changes, **write_options(call.request))
    return await _written(call, outcome)


async def fork_session(call: Call[None, Fork | None]) -> web.Response:
    """Copy a session up to a message, or all of it, into a new one."""
    body = call.body or Fork()
    outcome = await call.store.fork_session(
        call.session_id,
        body.session_id,
        after=body.after,
        title=body.title,
        metadata=body.metadata,
        **write_options(call.request),
    )
    return await _written(call, outcome)


async def delete_session(call: Call[DeleteQuery, None]) -> web.Response:
    """Delete a session, so that it can be restored, or for good."""
    options = write_options(call.request)
    outcome = await call.store.delete_session(call.session_id, hard=call.query.hard, **options)
    return no_content(outcome.version, replayed=outcome.replayed)


async def restore_session(call: Call[None, None]) -> web.Response:
    """Take back a deletion that was not for good."""
    outcome = await call.store.restore_session(call.session_id, **write_options(call.request))
    return await _written(call, outcome)


async def get_stats(call: Call[None, None]) -> web.Response:
    """What a session has grown to."""
    stats = await call.store.get_stats(call.session_id, owner=call.owner)
    return reply(convert(stats, Stats, from_attributes=True), stats.version)


async def clean_up(call: Call[None, CleanupOrder | None]) -> web.Response:
    """Delete idle sessions, and erase those deleted long ago; or count them."""
    order = call.body or CleanupOrder()
    cleaned = await call.store.cleanup(**structs.asdict(order))
    return reply(cleaned)


ROUTES = (
    Route("POST", "/sessions", create_session, {201: Session}, errors=(SessionExists,), writes=True),
    Route("GET", "/sessions", list_sessions, {200: SessionPage}),
    Route("PUT", "/sessions/{session_id}", ensure_session, {200: Session, 201: Session}, writes=True),
    Route("GET", "/sessions/{session_id}", get_session, {200: Session}),
    Route("PATCH", "/sessions/{session_id}", update_session, {200: Session}, writes=True),
    Route("DELETE", "/sessions/{session_id}", delete_session, {204: None}, writes=True),
    Route("POST", "/sessions/{session_id}/restore", restore_session, {200: Session}, writes=True),
    Route(
        "POST",
        "/sessions/{session_id}/fork",
        fork_session,
        {201: Session},
        errors=(SessionExists,),
        writes=True,
    ),
    Route("GET", "/sessions/{session_id}/stats", get_stats, {200: Stats}),
    Route("POST", "/maintenance/cleanup", clean_up, {200: Cleaned}, admin=True),
)
