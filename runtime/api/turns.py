"""Turns: an agent is asked, and what it answers is streamed as it comes."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aiohttp import web
from msgspec import Struct

from runtime.agents.turn_messages import TurnMessage
from runtime.api.event_schemas import NewTurnStream, TurnStream
from runtime.api.request import last_turn_event_id, must_exist, write_options
from runtime.api.responses import reply, session_headers
from runtime.api.routes import DIALECT, ENGINE, EVENT_STREAM, Call, Route
from runtime.api.streaming import stream
from runtime.errors import (
    ApprovalDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalPending,
    CallNotOpen,
    SessionNotFound,
    TurnNotFound,
    TurnRunning,
)
from runtime.models import Key, Limit, Turn
from runtime.store.follow.turn_follower import TurnFollower


class NewTurn(Struct, frozen=True, forbid_unknown_fields=True):
    """A message to an agent, and the session of it. A missing session is created, with an id where none is
    given. Unknown and null members of `message` are ignored."""

    message: TurnMessage
    session_id: Key | None = None


class TurnsQuery(Struct, frozen=True):
    limit: Limit = 100


class Turns(Struct, frozen=True):
    """Turns of a session, latest first."""

    session_id: str
    turns: list[Turn]


class StopAccepted(Struct, frozen=True):
    """The turn will be stopped, if it has not ended."""

    session_id: str
    turn_id: str


async def start_turn(call: Call[None, NewTurn]) -> web.StreamResponse:
    """Ask the agent that holds a session; the events of the turn. It runs on if the client goes away."""
    session_id, message = call.body.session_id, call.body.message
    engine, dialect = call.request.app[ENGINE], call.request.app[DIALECT]
    if must_exist(call.request) and session_id is not None:
        await call.store.get_session(session_id, owner=call.owner)
    written = await engine.start(session_id, dialect.understand(message), **write_options(call.request))
    headers = {
        **session_headers(written.version, replayed=written.replayed),
        "X-Turn-ID": written.turn.turn_id,
    }
    first = b"" if session_id is not None else dialect.session_info(written.session_id)
    if not written.replayed:
        return await _stream(call, call.store.follow_new_turn(written), headers, first)
    following = call.store.follow_turn(written.session_id, written.turn.turn_id, owner=call.owner)
    return await _stream(call, following, headers, first)


async def follow_turn(call: Call[None, None]) -> web.StreamResponse:
    """The events of a turn from `Last-Event-ID` on, and then live."""
    after = last_turn_event_id(call.request)
    following = call.store.follow_turn(call.session_id, call.keys["turn_id"], after=after, owner=call.owner)
    return await _stream(call, following, {})


async def _stream(
    call: Call[None, NewTurn] | Call[None, None],
    following: AbstractAsyncContextManager[TurnFollower],
    headers: dict[str, str],
    first: bytes = b"",
) -> web.StreamResponse:
    encode = call.request.app[DIALECT].encoder()
    async with following as follower:
        return await stream(call.request, follower.events, encode, headers, first)


async def list_turns(call: Call[TurnsQuery, None]) -> web.Response:
    """The turns of a session, latest first."""
    found = await call.store.list_turns(call.session_id, limit=call.query.limit, owner=call.owner)
    return reply(Turns(found.session_id, found.turns), found.version)


async def stop_turn(call: Call[None, None]) -> web.Response:
    """Stop a turn. The text so far is stored, marked as stopped."""
    turn_id = call.keys["turn_id"]
    version = await call.store.stop_turn(call.session_id, turn_id, **write_options(call.request))
    return reply(StopAccepted(call.session_id, turn_id), version, status=202)


TURN = "/sessions/{session_id}/turns/{turn_id}"

ROUTES = (
    Route(
        "POST",
        "/agent/message/stream",
        start_turn,
        {200: NewTurnStream},
        errors=(
            SessionNotFound,
            TurnRunning,
            CallNotOpen,
            ApprovalPending,
            ApprovalNotFound,
            ApprovalDecided,
            ApprovalExpired,
        ),
        writes=True,
        media_type=EVENT_STREAM,
    ),
    Route(
        "GET",
        TURN + "/events",
        follow_turn,
        {200: TurnStream},
        errors=(TurnNotFound,),
        media_type=EVENT_STREAM,
    ),
    Route("POST", TURN + "/stop", stop_turn, {202: StopAccepted}, errors=(TurnNotFound,), writes=True),
    Route("GET", "/sessions/{session_id}/turns", list_turns, {200: Turns}),
)
