"""Admits requests: authenticates the caller, checks the scope, and counts the quotas."""

from __future__ import annotations

import logging
from ipaddress import ip_network

from aiohttp import web

from runtime.access.authentication import Authenticator
from runtime.access.identity import Identity
from runtime.access.quotas import QuotaLease, Quotas
from runtime.api.responses import LARGE, REQUEST_ID
from runtime.api.throttle import Throttle
from runtime.errors import InvalidInput
from runtime.models import Scope
from runtime.store.validation import is_key

logger = logging.getLogger("agent_runtime.access")

# Names the owner that an admin acts for.
OWNER_HEADER = "X-Owner"
IDENTITY = web.RequestKey("identity", Identity)
QUOTA_LEASE = web.RequestKey("holding", QuotaLease)


class Authorizer:
    """Authenticates at the pace of the throttle, and counts each request for its client."""

    def __init__(self, gate: Authenticator, intake: Throttle, shares: Quotas) -> None:
        self.gate = gate
        self.shares = shares
        self._intake = intake

    async def admit(self, request: web.Request, scope: Scope | None, holding: QuotaLease) -> None:
        """Identify the caller, who must have the `scope`, and count the request in the caller's quotas.

        A request without a scope needs no identity. Raises Unauthorized, Forbidden, TooManyRequests and what
        `Authenticator.identify` raises.
        """
        request[QUOTA_LEASE] = holding
        if scope is None:
            return
        # The address first: a stranger must not make us look up tokens without end.
        holding.join(f"address {network_of(request.remote or '')}")
        await self._intake.begin()
        identity = await self.gate.identify(request.headers)
        identity.demand(scope)
        if identity.client:
            holding.join(identity.client)
        request[IDENTITY] = _acting(request, identity)


AUTHORIZER = web.AppKey("admission", Authorizer)


def _acting(request: web.Request, identity: Identity) -> Identity:
    """The caller as it acts: for the owner that `X-Owner` names, where it names one.

    Raises Forbidden without the scope admin, whatever the header has, and InvalidInput for a wrong name.
    """
    names = request.headers.getall(OWNER_HEADER, ())
    if not names:
        return identity
    identity.demand("admin", OWNER_HEADER)
    if len(names) > 1:
        raise InvalidInput(OWNER_HEADER, f"must be given once, and is there {len(names)} times")
    if not is_key(names[0]):
        right = "must be the name of an owner: 1 to 255 characters in UTF-8, none of them a control character"
        raise InvalidInput(OWNER_HEADER, f"{right}; leave it out to act for yourself")
    fields = {
        "caller": identity.client or "anybody",
        "caller_owner": identity.owner,
        "owner": names[0],
        "method": request.method,
        "path": request.rel_url.raw_path,
        "request_id": request[REQUEST_ID],
    }
    # When it begins: the line of a stream in the access log comes at its end.
    text = "%(caller)s of owner %(caller_owner)r acts for owner %(owner)r: %(method)s %(path)s %(request_id)s"
    logger.info(text, fields, extra=fields)
    return identity.act_for(names[0])


async def is_still_admitted(request: web.Request) -> bool:
    """Whether the caller would be admitted again now."""
    return await request.app[AUTHORIZER].gate.still_admits(request[IDENTITY])


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 a whole /64, which is what one host is given."""
    if ":" not in address:
        return address
    return str(ip_network((address.partition("%")[0], 64), strict=False))


async def make_room(request: web.Request, size: int) -> None:
    """Before a write is answered with so many bytes: wait until its client may have them in hand.

    A write is not refused for its reply: 429 means that nothing was done.
    """
    holding = request[QUOTA_LEASE]
    if size > LARGE and holding.taken("bytes") < size:
        # Of two that wait none may hold what the other one needs. Nothing of the body is in hand any more.
        holding.give_back("bytes")
        await holding.wait("bytes", size)
