"""Replies with a list that may be larger than memory: sent as it is read, at the pace of the reader (R6)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import Raw, Struct

from runtime.api.authorization import QUOTA_LEASE
from runtime.api.responses import (
    REQUEST_ID,
    forget_frames,
    reply,
    session_headers,
    stamp,
    write_pieces,
)
from runtime.errors import AgentRuntimeError
from runtime.store.read.message_pages import MessageChunk, MessagesCut
from runtime.store.records import Head

logger = logging.getLogger("agent_runtime.http")

LIST = b'"messages":['


class Reading(Protocol):
    """Messages of a session at one head, read as they are consumed."""

    @property
    def head(self) -> Head: ...

    @property
    def chunks(self) -> AsyncIterator[MessageChunk]: ...


R = TypeVar("R", bound=Reading)


async def reply_with_messages(
    request: web.Request, read: Callable[[], Awaitable[R]], describe: Callable[[R], Struct]
) -> web.StreamResponse:
    """An object with all the messages that are read; `describe` makes it, its list of them empty.

    What is small is one reply. What is not is sent as it is read. Where messages are taken away meanwhile the
    connection breaks off: no reader takes a part for the whole.
    """
    while True:
        reading = await read()
        chunks = reading.chunks
        try:
            first = await _next(chunks) or MessageChunk([], more=False)
            if not first.more:
                # Only at the end it is known whether they existed together.
                await _next(chunks)
        except MessagesCut:
            continue
        # In the JSON of a text the quotes would be escaped.
        before, found, after = msgspec.json.encode(describe(reading)).partition(LIST)
        version = reading.head.version
        if not first.more:
            return reply(b"".join([before, found, *_pieces(first), after]), version)
        # Each chunk is held until it is sent, and no longer.
        held = [first]
        del first
        return await _stream(request, version, held, chunks, (before + found, after))


async def _next(chunks: AsyncIterator[MessageChunk]) -> MessageChunk | None:
    async for chunk in chunks:
        return chunk
    return None


def _pieces(chunk: MessageChunk, *, follows: bool = False) -> Iterator[bytes | Raw]:
    for place, (_, raw) in enumerate(chunk.messages):
        if place or follows:
            yield b","
        yield raw


async def _stream(
    request: web.Request,
    version: int,
    held: list[MessageChunk],
    chunks: AsyncIterator[MessageChunk],
    around: tuple[bytes, bytes],
) -> web.StreamResponse:
    holding, before, after = request[QUOTA_LEASE], *around
    holding.take("bytes", _size(held[0]))
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "application/json", **session_headers(version, replayed=False)}
    )
    stamp(response, request[REQUEST_ID])
    try:
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            await write_pieces(response, [before, *_pieces(held.pop())])
            async for chunk in chunks:
                holding.give_back("bytes")
                holding.take("bytes", _size(chunk))
                await write_pieces(response, _pieces(chunk, follows=True))
                del chunk
            await write_pieces(response, [after])
    except ConnectionError as error:
        forget_frames(error)
        logger.debug("request %s: the reader went away, or was cut off", request[REQUEST_ID])
    except (AgentRuntimeError, MessagesCut) as error:
        reason = str(error) or "messages were taken away meanwhile"
        logger.warning("request %s: the reply is broken off: %s", request[REQUEST_ID], reason)
        if request.transport is not None:
            request.transport.abort()
    return response


def _size(chunk: MessageChunk) -> int:
    return sum([len(memoryview(raw)) for _, raw in chunk.messages])
