"""JSON Web Tokens (RFC 7519) of one issuer, checked by the keys that it publishes (RFC 7517).

PyJWT checks; this module knows where the keys are, and what the claims mean here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import jwt
import msgspec

from runtime.access.identity import SCOPES, Identity
from runtime.config import Settings, redact_url
from runtime.errors import IssuerUnavailable, Unauthorized
from runtime.models import Key, Scope

logger = logging.getLogger("agent_runtime.access")

# Asymmetric ones only: with a symmetric key, every verifier could make tokens.
ALGORITHMS = [f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)] + ["EdDSA"]
# Seconds: how far clocks may be apart, how long keys are good, how soon they are asked for again at the
# most (a stranger's key id must not make us ask), how long the issuer may take to answer, and how long
# those wait for it whose key is known already.
LEEWAY = 5.0
FRESH_SECONDS, PAUSE_SECONDS, FETCH_SECONDS, GRACE_SECONDS = 600.0, 10.0, 5.0, 0.5
MAX_KEYS_BYTES = 1024 * 1024


class Issuer:
    """Who signs the JWTs that are taken. `clock` gives the loop's kind of time, in seconds."""

    def __init__(self, url: str, issuer: str, audience: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Issuer:
        """The issuer that the settings name."""
        clock = asyncio.get_running_loop().time
        return cls(settings.auth_jwks_url, settings.auth_issuer, settings.auth_audience, clock)

    async def prove(self, text: str) -> Identity:
        """The identity that a JWT proves. Raises Unauthorized, and IssuerUnavailable without the keys."""
        try:
            key = await self._find_key(jwt.get_unverified_header(text).get("kid"))
            claims = jwt.decode(
                text,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            logger.debug("a JWT is refused: %s", type(error).__name__)
            raise Unauthorized("the token is not one that is taken here") from None
        return _identity_from(claims)

    async def _find_key(self, kid: object) -> jwt.PyJWK:
        key = self._choose(kid)
        is_fresh = self._fetched_at is not None and self._clock() - self._fetched_at < FRESH_SECONDS
        if key is None or not is_fresh:
            await self._refresh(None if key is None else GRACE_SECONDS)
            key = self._choose(kid)
        if self._fetched_at is None:
            raise IssuerUnavailable("the keys of the token's issuer cannot be had for now")
        if key is None:
            raise Unauthorized("the token is signed by a key that its issuer does not publish")
        return key

    def _choose(self, kid: object) -> jwt.PyJWK | None:
        """The key of this id; without an id the key, if there is but one."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if isinstance(kid, str) else None

    async def _refresh(self, patience: float | None) -> None:
        """Ask for the keys, unless that was done a moment ago, and wait for the answer so many seconds.

        In a task of its own: the cancellation of one caller does not take the keys from the others.
        """
        now = self._clock()
        if self._tried_at is None or now - self._tried_at >= PAUSE_SECONDS:
            self._tried_at = now
            self._fetching = asyncio.create_task(self._fetch(now))
        if self._fetching is not None:
            await asyncio.wait({self._fetching}, timeout=patience)

    async def _fetch(self, now: float) -> None:
        """Old keys stay good while none can be had."""
        try:
            self._keys = _public_keys(await self._download())
            self._fetched_at = now
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError, RecursionError) as error:
            reason = redact_url(str(error)) or type(error).__name__
            logger.warning("the keys at AUTH_JWKS_URL cannot be had: %s", reason)

    async def _download(self) -> Any:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(self._url, allow_redirects=False) as reply,
        ):
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            return msgspec.json.decode(await _read(reply.content))


async def _read(content: aiohttp.StreamReader) -> bytes:
    """All of it: it comes in as many pieces as the network likes. Raises ValueError."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > MAX_KEYS_BYTES:
            raise ValueError(f"there are more than {MAX_KEYS_BYTES} bytes")
    return bytes(body)


def _public_keys(document: Any) -> dict[str, jwt.PyJWK]:
    """The keys of a set that may sign tokens here, by id. Raises ValueError."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("there is no key set")
    found = {}
    for entry in document["keys"]:
        if isinstance(entry, dict) and entry.get("kty") != "oct" and entry.get("use", "sig") == "sig":
            try:
                found[str(entry.get("kid"))] = jwt.PyJWK(entry)
            except Exception:
                # Each way in which an entry can be wrong has an error of its own: of PyJWT, or of Python.
                logger.warning("a key at AUTH_JWKS_URL is of a kind that is not known here")
    return found


def _identity_from(claims: Mapping[str, Any]) -> Identity:
    try:
        owner = msgspec.convert(claims["sub"], Key)
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError, OSError):
        raise Unauthorized("the token's subject or its time cannot be used") from None
    return Identity(owner, _scope_of(claims), f"subject {owner}", expires_at=expires_at)


def _scope_of(claims: Mapping[str, Any]) -> Scope | None:
    """The widest of our scopes in the claim `scope` (RFC 8693, 4.2); `write` where there is no such claim.

    An issuer that speaks of no scopes leaves its users their own sessions; one that does is believed.
    """
    granted = claims.get("scope", claims.get("scp"))
    if granted is None:
        return "write"
    words = granted.split() if isinstance(granted, str) else granted
    return next((scope for scope in reversed(SCOPES) if isinstance(words, list) and scope in words), None)
