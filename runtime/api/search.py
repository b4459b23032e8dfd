"""Search."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct, structs

from runtime.api.responses import reply
from runtime.api.routes import Call, Route
from runtime.errors import InvalidInput, SearchOff
from runtime.models import Key, Role, SearchPage, Time

Hits = Annotated[int, Meta(ge=1, le=100)]


class SearchQuery(Struct, frozen=True):
    """The words to search for, and what narrows the search."""

    q: str
    session_id: Key | None = None
    role: Role | None = None
    agent: Key | None = None
    after: Time | None = None
    before: Time | None = None
    limit: Hits = 20
    cursor: str | None = None


async def search(call: Call[SearchQuery, None]) -> web.Response:
    """A page of the messages that have all words of a query, latest first. It may end before the limit."""
    query = structs.asdict(call.query)
    try:
        return reply(await call.store.search(query.pop("q"), owner=call.owner, **query))
    except InvalidInput as error:
        problem = error.problems[0]
        raise InvalidInput(problem.path.replace("$.", "?"), problem.message) from None


ROUTES = (Route("GET", "/search", search, {200: SearchPage}, errors=(SearchOff,)),)
