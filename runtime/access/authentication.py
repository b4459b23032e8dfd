"""Authenticates callers: by a token of ours, a JWT of the issuer, or the internal key.

A server on loopback with none of these is open: every caller is the owner "" and may do everything.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from multidict import MultiMapping

from runtime.access.identity import ANYBODY, Identity
from runtime.config import PREFIX, Settings
from runtime.errors import Forbidden, SettingsError, Unauthorized
from runtime.models import utc_now
from runtime.store.tokens import Tokens, id_in

if TYPE_CHECKING:
    from runtime.access.issuer import Issuer

logger = logging.getLogger("agent_runtime.access")

# How often an open server looks whether a first token was made, in seconds.
LOOK_SECONDS = 1.0
PORT = re.compile(":[0-9]*$")
HOW_TO = (
    f"make a token with `agent-runtime token create --name NAME`, or set {PREFIX}INTERNAL_API_KEY or "
    f"{PREFIX}AUTH_JWKS_URL"
)


class Authenticator:
    """Authenticates callers. `open` is whether callers without credentials are admitted.

    An open server is asked by a name of this machine alone, or by one of `hosts`.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        internal_key: str = "",
        issuer: Issuer | None = None,
        open: bool = False,
        hosts: Collection[str] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.open = open
        self._hosts = frozenset(map(_name_in, hosts))
        self._tokens = tokens
        self._internal_key = internal_key.encode()
        self._issuer = issuer
        self._clock = clock

    async def identify(self, headers: MultiMapping[str]) -> Identity:
        """The identity of the caller, by the headers of a request.

        Raises Unauthorized, Forbidden, and IssuerUnavailable or DatabaseUnavailable if it cannot be decided.
        """
        if (key := _only(headers, "X-Internal-Auth")) is not None:
            right = hmac.compare_digest(key.encode(errors="surrogateescape"), self._internal_key)
            if not self._internal_key or not right:
                raise Unauthorized("the key in X-Internal-Auth is wrong")
            return Identity(client="internal")
        if (authorization := _only(headers, "Authorization")) is not None:
            return await self._prove(authorization)
        if not self.open:
            raise Unauthorized("a token is needed: Authorization: Bearer …", given=False)
        self._check_host(headers.get("Host", ""))
        # A page of another site, in a browser on this machine, may send requests, which must be refused.
        if _is_of_another_site(headers):
            raise Forbidden("a page of another site may not ask here")
        return ANYBODY

    def _check_host(self, host: str) -> None:
        """Raise Forbidden where a request names another machine: the name of a page's site may have been made
        to mean this one (DNS rebinding), and then the browser takes us for the site."""
        if not _is_local(host) and _name_in(host) not in self._hosts:
            name = _name_in(host)[:255]
            right = f"ask for localhost, or list the name in {PREFIX}ALLOWED_HOSTS"
            raise Forbidden(f"an open server does not answer to the name {name!r}: {right}")

    async def still_admits(self, identity: Identity) -> bool:
        """Whether an identity that was admitted would be admitted again now."""
        if identity.token_id:
            return await self._tokens.find_valid(identity.token_id) is not None
        if identity.expires_at is not None:
            return self._clock() < identity.expires_at
        return self.open or bool(identity.client)

    async def _prove(self, authorization: str) -> Identity:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("only bearer tokens are taken: Authorization: Bearer …")
        text = text.strip(" ")
        if self._issuer is not None and id_in(text) is None:
            return await self._issuer.prove(text)
        token = await self._tokens.prove(text)
        if token is None:
            raise Unauthorized("the token is not known, has expired or was revoked")
        return Identity(token.owner, token.scope, f"token {token.id}", token.id)


def _only(headers: MultiMapping[str], name: str) -> str | None:
    """The value of a header. Raises Unauthorized if it is given twice: a proxy may use the other one."""
    values = headers.getall(name, ())
    if len(values) > 1:
        raise Unauthorized(f"there are {len(values)} headers {name}, and one is taken")
    return values[0] if values else None


def _is_of_another_site(headers: MultiMapping[str]) -> bool:
    if headers.get("Sec-Fetch-Site") == "cross-site":
        return True
    # The origin of a page without a site is "null".
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host", "")


def _name_in(host: str) -> str:
    """The name or address in a header Host, without the port."""
    return PORT.sub("", host).strip("[]").rstrip(".").lower()


@lru_cache
def _is_local(host: str) -> bool:
    """Whether a header Host means this machine, without asking a name server."""
    name = _name_in(host)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        # A browser always sends a name.
        return name in ("", "localhost") or name.endswith(".localhost")
    # An IPv4 address may be written as one of IPv6.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@asynccontextmanager
async def open_authenticator(settings: Settings, tokens: Tokens) -> AsyncIterator[Authenticator]:
    """The gate that the settings ask for. Raises SettingsError where strangers could come in.

    Once a token was ever made nobody comes in without: revoking the last one opens nothing.
    """
    configured = bool(settings.internal_api_key or settings.auth_jwks_url) or await tokens.any_exist()
    if not configured and not await is_loopback(settings.host):
        raise SettingsError(
            f"{PREFIX}HOST is {settings.host!r}, which other machines reach, and nothing says who may come "
            f"in: {HOW_TO}; or listen on 127.0.0.1"
        )
    gate = Authenticator(
        tokens,
        internal_key=settings.internal_api_key,
        issuer=_issuer(settings),
        open=not configured,
        hosts=[settings.host, *re.split(" *, *", settings.allowed_hosts)],
    )
    if configured:
        yield gate
        return
    logger.warning("open: every client on this machine's loopback may do everything; to close it, %s", HOW_TO)
    closing = asyncio.create_task(_close_when_needed(gate, tokens))
    try:
        yield gate
    finally:
        closing.cancel()


def _issuer(settings: Settings) -> Issuer | None:
    if not settings.auth_jwks_url:
        return None
    # Here, so that a server without JWTs need not load what checks them.
    from runtime.access.issuer import Issuer

    return Issuer.from_settings(settings)


async def _close_when_needed(gate: Authenticator, tokens: Tokens) -> None:
    """Close an open gate when the first token is made."""
    while gate.open:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            gate.open = not await tokens.any_exist()
        except Exception as error:
            # Whatever it is, the looking must go on.
            logger.warning("whether a token was made cannot be told for now: %s", error)
    logger.warning("closed: a token was made, and is needed from now on")


async def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone. Raises SettingsError for an unknown one."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{PREFIX}HOST is {host!r}, which is not known: {error}") from None
    addresses = {str(address[0]).partition("%")[0] for *_, address in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
