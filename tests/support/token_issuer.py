"""An issuer of JSON Web Tokens on loopback, and what proves by them who asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.loopback import listening

Json = Any
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

ISSUER, AUDIENCE = "https://issuer.example", "agent-runtime"


@cache
def key_of(name: str, algorithm: str) -> PrivateKey:
    """A key that signs with this algorithm, always the same of one name: making one is slow."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def public_entry(key: PrivateKey, algorithm: str, kid: str) -> Json:
    """What the issuer publishes of a key (RFC 7517)."""
    known = jwt.get_algorithm_by_name(algorithm)
    entry = msgspec.json.decode(known.to_jwk(key.public_key()))
    return {**entry, "kid": kid, "alg": algorithm, "use": "sig"}


def claims(sub: str = "alice", **more: Json) -> dict[str, Json]:
    """Claims that are taken. One that is given as None is left out."""
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 600}
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


class JwtIssuer:
    """The running issuer: it publishes `body` with `status`, in pieces, and counts who `asked`."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.status = 200
        self.body: bytes | None = None
        self.hold: asyncio.Event | None = None
        self.keys: dict[str, tuple[PrivateKey, str]] = {}

    def add_key(self, kid: str, algorithm: str) -> None:
        self.keys[kid] = (key_of(kid, algorithm), algorithm)

    def sign(self, claims: Json, key: str = "RS256", **headers: Json) -> str:
        """A JWT of these claims, right or wrong, signed with the key of this id."""
        private, algorithm = self.keys[key]
        payload = json.dumps(claims).encode()
        return jwt.PyJWS().encode(payload, private, algorithm, headers={"kid": key, **headers})

    def settings(self) -> dict[str, str]:
        """What lets a server take its tokens."""
        return {"auth_jwks_url": self.url, "auth_issuer": ISSUER, "auth_audience": AUDIENCE}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The key set, in pieces: a network keeps nothing together."""
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        body = self.published() if self.body is None else self.body
        middle = len(body) // 2
        for piece in (body[:middle], body[middle:]):
            await response.write(piece)
            # Each piece arrives alone.
            await asyncio.sleep(0.01)
        return response

    def published(self) -> bytes:
        entries = [public_entry(key, algorithm, kid) for kid, (key, algorithm) in self.keys.items()]
        return msgspec.json.encode({"keys": entries})


@asynccontextmanager
async def jwt_issuer(*algorithms: str) -> AsyncIterator[JwtIssuer]:
    """An issuer with a key of each algorithm, which is also the key's id."""
    issuer = JwtIssuer()
    for algorithm in algorithms or ("RS256",):
        issuer.add_key(algorithm, algorithm)
    app = web.Application()
    app.router.add_get("/keys", issuer.answer)
    async with listening(app) as url:
        issuer.url = f"{url}/keys"
        yield issuer


def bearer(token: str) -> dict[str, str]:
    """The header that proves who asks."""
    return {"Authorization": f"Bearer {token}"}
