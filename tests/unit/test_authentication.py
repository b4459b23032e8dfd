"""JSON Web Tokens as the gate takes them, with a clock of the test and a real issuer on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.access.authentication import is_loopback
from runtime.access.issuer import MAX_KEYS_BYTES, PAUSE_SECONDS, Issuer, _public_keys
from runtime.errors import IssuerUnavailable, SettingsError, Unauthorized
from tests.support.token_issuer import (
    AUDIENCE,
    ISSUER,
    Json,
    JwtIssuer,
    claims,
    jwt_issuer,
    key_of,
    public_entry,
)

ALGORITHMS = ("RS256", "ES256", "EdDSA")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def published() -> AsyncIterator[JwtIssuer]:
    async with jwt_issuer(*ALGORITHMS) as published:
        yield published


@pytest.fixture
def issuer(published: JwtIssuer, clock: Clock) -> Issuer:
    return Issuer(published.url, ISSUER, AUDIENCE, clock)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_asymmetric_algorithms_are_taken(issuer: Issuer, published: JwtIssuer, algorithm: str) -> None:
    identity = await issuer.prove(published.sign(claims("alice"), algorithm))
    assert (identity.owner, identity.scope) == ("alice", "write")
    assert identity.expires_at is not None


def public_pem(published: JwtIssuer, kid: str) -> bytes:
    public = published.keys[kid][0].public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def forged(header: Json, payload: Json, secret: bytes | None) -> str:
    """A JWT that no library would make: signed by HMAC with any secret, or by nothing."""

    def encode(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    text = f"{encode(msgspec.json.encode(header))}.{encode(msgspec.json.encode(payload))}"
    signature = b"" if secret is None else hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{encode(signature)}"


@pytest.mark.parametrize("kid", ALGORITHMS)
async def test_a_public_key_is_no_secret_to_sign_with(issuer: Issuer, published: JwtIssuer, kid: str) -> None:
    pem = public_pem(published, kid)
    for secret in (pem, pem.strip(), msgspec.json.encode(msgspec.json.decode(published.published()))):
        for algorithm in ("HS256", "RS256", "hs256"):
            with pytest.raises(Unauthorized):
                await issuer.prove(forged({"alg": algorithm, "kid": kid}, claims(), secret))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 7, ["RS256"]])
async def test_nothing_unsigned_is_taken(issuer: Issuer, algorithm: Json) -> None:
    with pytest.raises(Unauthorized):
        await issuer.prove(forged({"alg": algorithm, "kid": "RS256"}, claims("admin"), None))


async def test_a_key_that_comes_with_the_token_is_not_looked_at(issuer: Issuer, published: JwtIssuer) -> None:
    stranger = key_of("stranger", "RS256")
    for header in ({"jwk": public_entry(stranger, "RS256", "RS256")}, {"jku": published.url}):
        token = jwt.encode(claims(), stranger, "RS256", headers={"kid": "RS256", **header})
        with pytest.raises(Unauthorized):
            await issuer.prove(token)


NOW = int(time.time())


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://another.example"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"exp": None},
        {"exp": NOW - 3600},
        {"exp": "soon"},
        {"exp": 1e300},
        {"exp": 10**18},
        {"exp": -(10**18)},
        {"exp": "99999999999"},
        {"exp": [NOW + 600]},
        {"nbf": NOW + 3600},
        {"iat": NOW + 3600},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_wrong_claims_are_refused(issuer: Issuer, published: JwtIssuer, wrong: Json) -> None:
    with pytest.raises(Unauthorized):
        await issuer.prove(published.sign(claims(**wrong)))


async def test_an_endless_expiry_is_refused(issuer: Issuer, published: JwtIssuer) -> None:
    for exp in (float("inf"), float("nan")):
        with pytest.raises(Unauthorized):
            await issuer.prove(published.sign(claims(exp=exp)))


@pytest.mark.parametrize(
    ("given", "scope"),
    [
        ({}, "write"),
        ({"scope": "read"}, "read"),
        ({"scope": "openid admin profile"}, "admin"),
        ({"scope": "read write"}, "write"),
        ({"scp": ["read"]}, "read"),
        ({"scope": ""}, None),
        ({"scope": "openid profile"}, None),
        ({"scope": "administrator readonly"}, None),
        ({"scope": ["write", 7, ["admin"]]}, "write"),
        ({"scope": 7}, None),
        ({"scope": {"admin": True}}, None),
    ],
    ids=str,
)
async def test_scopes(issuer: Issuer, published: JwtIssuer, given: Json, scope: str | None) -> None:
    assert (await issuer.prove(published.sign(claims(**given)))).scope == scope


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a.b.c", "x" * 100_000, "." * 100_000, "[[" * 50_000, "ü.ü.ü", "e30.e30.e30"),
        "\udcff.\udcfe.\udcfd",
    ],
    ids=lambda text: ascii(text[:12]),
)
async def test_garbage_is_refused(issuer: Issuer, text: str) -> None:
    with pytest.raises(Unauthorized):
        await issuer.prove(text)


async def test_a_payload_nested_deep_is_refused(issuer: Issuer, published: JwtIssuer) -> None:
    deep = base64.urlsafe_b64encode(b'{"sub":' + b"[" * 100_000).decode().rstrip("=")
    head, _, signature = published.sign(claims()).split(".")
    for text in (f"{head}.{deep}.{signature}", f"{deep}.{deep}.{signature}"):
        with pytest.raises(Unauthorized):
            await issuer.prove(text)


async def test_unknown_keys_make_no_storm_of_fetches(
    issuer: Issuer, published: JwtIssuer, clock: Clock
) -> None:
    good = published.sign(claims())
    await issuer.prove(good)
    clock.now += PAUSE_SECONDS
    strangers = [published.sign(claims(), kid=f"unknown {n}") for n in range(50)]
    refused = await asyncio.gather(*map(issuer.prove, strangers), return_exceptions=True)
    assert {type(each) for each in refused} == {Unauthorized}
    assert published.asked == 2
    clock.now += PAUSE_SECONDS - 0.1
    with pytest.raises(Unauthorized):
        await issuer.prove(strangers[0])
    await issuer.prove(good)
    assert published.asked == 2


async def test_a_new_key_is_found_after_the_pause(issuer: Issuer, published: JwtIssuer, clock: Clock) -> None:
    old = published.sign(claims())
    await issuer.prove(old)
    del published.keys["RS256"]
    published.add_key("new", "ES256")
    new = published.sign(claims("bob"), "new")
    with pytest.raises(Unauthorized):
        await issuer.prove(new)
    clock.now += PAUSE_SECONDS
    assert (await issuer.prove(new)).owner == "bob"
    # A key that is published no more is good for nothing.
    with pytest.raises(Unauthorized):
        await issuer.prove(old)


async def test_known_keys_serve_while_the_issuer_is_silent(
    issuer: Issuer, published: JwtIssuer, clock: Clock
) -> None:
    good = published.sign(claims())
    await issuer.prove(good)
    clock.now += 3600
    published.hold = asyncio.Event()
    async with asyncio.timeout(1):
        assert (await issuer.prove(good)).owner == "alice"
    published.hold.set()


async def test_an_issuer_that_cannot_be_had_heals(issuer: Issuer, published: JwtIssuer, clock: Clock) -> None:
    good = published.sign(claims())
    published.status = 500
    for _ in range(5):
        with pytest.raises(IssuerUnavailable):
            await issuer.prove(good)
    assert published.asked == 1
    published.status = 200
    clock.now += PAUSE_SECONDS
    await issuer.prove(good)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"keys"',
        b'{"keys": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys": [' + b'{"kty": "RSA"},' * 10 + b"]}",
        b'{"keys": [], "pad": "' + b"x" * MAX_KEYS_BYTES + b'"}',
    ],
    ids=lambda body: f"{len(body)} bytes",
)
async def test_what_is_no_key_set_takes_nothing_away(
    issuer: Issuer, published: JwtIssuer, clock: Clock, body: bytes
) -> None:
    good = published.sign(claims())
    published.body = body
    with pytest.raises(IssuerUnavailable):
        await issuer.prove(good)
    published.body = None
    clock.now += PAUSE_SECONDS
    await issuer.prove(good)
    published.body = body
    clock.now += 3600
    await issuer.prove(good)


async def test_a_large_key_set_is_read_whole(issuer: Issuer, published: JwtIssuer) -> None:
    whole = msgspec.json.decode(published.published())
    whole["pad"] = "x" * (MAX_KEYS_BYTES - 100_000)
    published.body = msgspec.json.encode(whole)
    await issuer.prove(published.sign(claims()))


async def test_bad_keys_hide_no_good_ones(issuer: Issuer, published: JwtIssuer) -> None:
    good = msgspec.json.decode(published.published())["keys"]
    bad = [  # type: ignore[var-annotated]
        *(7, None, [], {}, {"kty": "RSA"}, {"kty": 7}, {"kty": ["RSA"]}, {"kty": "RSA", "alg": ["x"]}),
        *({"kty": "RSA", "alg": "none"}, {"kty": "RSA", "n": 5, "e": "AQAB"}),
        {"kty": "RSA", "n": "!", "e": "!"},
        *({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "OKP", "crv": "Ed25519", "x": 3}),
        *({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "s"}, {"kty": "EC", "crv": {}}),
    ]
    published.body = msgspec.json.encode({"keys": [*bad, *good]})
    for kid in ALGORITHMS:
        await issuer.prove(published.sign(claims(), kid))
    with pytest.raises(Unauthorized):
        await issuer.prove(forged({"alg": "HS256", "kid": "s"}, claims(), b"secret"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {
    "kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | json_values,
    "alg": st.sampled_from(["RS256", "HS256", "none", "ES256K", "EdDSA"]) | json_values,
    "crv": st.sampled_from(["P-256", "Ed25519", "Ed448", "X25519", "secp256k1"]) | json_values,
    **{name: st.sampled_from(["AQAB", "", "!"]) | json_values for name in ("n", "e", "x", "y", "d", "k")},
    "use": st.just("sig") | json_values,
    "kid": json_values,
}


@given(st.lists(st.fixed_dictionaries({}, optional=FIELDS) | json_values, max_size=4))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_key_set_breaks_anything(keys: list[Json]) -> None:
    _public_keys({"keys": keys})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "127.1"])
async def test_loopback(host: str) -> None:
    assert await is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "192.0.2.1", "::ffff:0.0.0.0", "::ffff:192.0.2.1"])
async def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not await is_loopback(host)


@pytest.mark.parametrize("host", ["host.invalid", "x" * 300, "a b", "ü" * 64])
async def test_hosts_that_are_not_known(host: str) -> None:
    with pytest.raises(SettingsError):
        await is_loopback(host)
