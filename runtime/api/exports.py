"""Exports: JSON Lines of whole sessions, sent as they are read, at the pace of the reader (R6)."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import Any, ClassVar

from aiohttp import hdrs, web

from runtime.api.authorization import QUOTA_LEASE
from runtime.api.responses import REQUEST_ID, forget_frames, stamp, write_pieces
from runtime.api.routes import Call, Route
from runtime.errors import AgentRuntimeError, SessionNotFound
from runtime.store.read.export_reader import ExportScope

logger = logging.getLogger("agent_runtime.http")

JSON_LINES = "application/jsonl"


class ExportText:
    """Lines of JSON: a header, each session with its parts and messages, and an end."""

    schema: ClassVar[dict[str, Any]] = {"type": "string"}


async def export_session(call: Call[None, None]) -> web.StreamResponse:
    """A session as JSON Lines, exactly as it is stored: `agent-runtime import` reads it back."""
    return await _stream(call, ExportScope(call.owner, call.session_id))


async def export_owner(call: Call[None, None]) -> web.StreamResponse:
    """Every session of an owner as JSON Lines, deleted ones too, all of one moment."""
    return await _stream(call, ExportScope(call.keys["owner"]))


async def _stream(call: Call[None, None], scope: ExportScope) -> web.StreamResponse:
    """Send an export. Where it fails later than at its beginning the connection breaks off."""
    request = call.request
    # It lasts as long as its reader likes: it counts as a stream, and of the rest only what is in hand.
    request[QUOTA_LEASE].take("streams")
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON_LINES})
    stamp(response, request[REQUEST_ID])
    async with aclosing(call.store.exports.pieces(scope)) as pieces:
        piece = await anext(pieces)
        request[QUOTA_LEASE].give_back("requests")
        try:
            await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                return response
            await write_pieces(response, [piece])
            async for piece in pieces:
                await write_pieces(response, [piece])
        except ConnectionError as error:
            forget_frames(error)
            logger.debug("request %s: the reader went away, or was cut off", request[REQUEST_ID])
        except AgentRuntimeError as error:
            logger.warning("request %s: the export is broken off: %s", request[REQUEST_ID], error)
            if request.transport is not None:
                request.transport.abort()
    return response


ROUTES = (
    Route(
        "GET",
        "/sessions/{session_id}/export",
        export_session,
        {200: ExportText},
        errors=(SessionNotFound,),
        media_type=JSON_LINES,
    ),
    Route(
        "GET",
        "/owners/{owner}/export",
        export_owner,
        {200: ExportText},
        media_type=JSON_LINES,
        admin=True,
    ),
)
