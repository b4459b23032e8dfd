"""Owners, for admins: who has sessions, and the end of all that one of them has."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct, structs

from runtime.api.responses import reply
from runtime.api.routes import Call, Route
from runtime.errors import InvalidInput, NotStored, ShuttingDown
from runtime.models import ErasedOwner, Limit, OwnerPage


class OwnersQuery(Struct, frozen=True):
    limit: Limit = 50
    cursor: str | None = None


async def list_owners(call: Call[OwnersQuery, None]) -> web.Response:
    """A page of the owners of sessions, by name. It ends early after 10,000 sessions."""
    try:
        return reply(await call.store.list_owners(**structs.asdict(call.query)))
    except InvalidInput as error:
        raise InvalidInput("?cursor", error.problems[0].message) from None


async def erase_owner(call: Call[None, None]) -> web.Response:
    """Erase all that an owner has, and answer when it is done. To repeat it is harmless."""
    return reply(await call.store.erase_owner(call.keys["owner"]))


ROUTES = (
    Route("GET", "/owners", list_owners, {200: OwnerPage}, admin=True),
    Route(
        "DELETE",
        "/owners/{owner}",
        erase_owner,
        {200: ErasedOwner},
        errors=(NotStored, ShuttingDown),
        admin=True,
    ),
)
