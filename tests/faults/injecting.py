"""A client that puts texts of the corpus wherever the server takes a text, and reads back what it shows."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import cycle, islice
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from msgspec import UNSET
from yarl import URL

from runtime.agents.echo import INTRODUCTION
from runtime.api.application import ROUTES
from runtime.api.openapi import describe
from runtime.api.responses import ALWAYS
from runtime.api.routes import EVENT_STREAM, Route
from runtime.errors import MetricsNotFound
from runtime.models import DEFAULT_AGENT
from tests.faults.fields import Filler, bodies_of, parts_of, strings_in

Json = Any

SESSION = "/sessions/{session_id}"
MESSAGES = SESSION + "/messages"
EVENTS = SESSION + "/events"
APPROVALS = SESSION + "/approvals"
DECISION = APPROVALS + "/{call_id}/decision"
STREAM = "/agent/message/stream"
# What makes a session of a body wants none that is there.
MAKING = {("POST", "/sessions"), ("PUT", SESSION)}

# Without the fork, which has the same texts as the making of a session, and needs two.
WRITES = [
    (route, kind)
    for route in ROUTES
    if route.method != "GET" and not route.path.endswith("/fork")
    for kind in bodies_of(route)
]
READS = [
    route
    for route in ROUTES
    if route.method == "GET" and route.keys == ["session_id"] and route.media_type == "application/json"
    # A session without an ended turn has no metrics.
    if MetricsNotFound not in route.errors
]

# What the server puts into replies by itself: times, ids, its own words, and what the echo model says.
OWN = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z_]+|"
    + re.escape(INTRODUCTION)
    + ".*",
    re.DOTALL,
)
# What our client sends in a header; what it would not is for the tests that write bytes by themselves.
SENDABLE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# The names of all headers that replies have: no other may come in through a text.
HEADERS = {
    *("allow", "content-type", "content-length", "connection", "date", "etag", "location", "retry-after"),
    *("idempotent-replayed", "preference-applied", "transfer-encoding", "www-authenticate", "x-request-id"),
    *("x-accel-buffering", "x-turn-id", *map(str.lower, ALWAYS)),
}
PLACE = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
ANYWHERE = ("X-Request-ID", "Content-Type", "Expect", "Accept", "User-Agent", "Referer", "Cookie")


def _places() -> Iterator[tuple[Route, str, str]]:
    """Each route with each of its parameters: where it stands, and its name."""
    document = describe(ROUTES)["paths"]
    for route in ROUTES:
        for field in document[route.path][route.method.lower()]["parameters"]:
            yield route, field["in"], field["name"]
        if route.path == "/sessions":
            # What every route reads in the same way.
            yield from ((route, "header", name) for name in ANYWHERE)


PLACES = tuple(_places())


class Refusal(Exception):
    """A request that the server refuses with problem details."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem


def is_key(text: str) -> bool:
    """Whether a session, a call or an agent may be named so: the contract's rule, in words of our own."""
    return 1 <= len(text) <= 255 and not any(unicodedata.category(c) == "Cc" for c in text)


def path_of(route: Route | str, **keys: str) -> str:
    """The path with these keys in it, percent-encoded whole."""
    path = route if isinstance(route, str) else route.path
    for name, text in keys.items():
        # Dots as well: a client of ours must not take `..` for the way up.
        path = path.replace(f"{{{name}}}", quote(text, safe="").replace(".", "%2E"))
    return path


class Injector:
    """Each write goes to a session of its own, which is then read in every way there is."""

    def __init__(self, http: aiohttp.ClientSession, url: str, texts: list[str], seed: int) -> None:
        self._http = http
        self._url = url
        self._texts = texts
        self._seed = seed
        self.sessions: set[str] = set()
        self.stored = 0
        self.refused = 0

    async def ask(
        self, method: str, path: str, body: Json = None, *, stream: bool = False, **headers: str
    ) -> Json:
        """The decoded reply. Raises Refusal; a failure of the server is an AssertionError.

        Of a `stream` that begins well nothing is read.
        """
        url = URL(self._url + path, encoded=True)
        async with self._http.request(method, url, json=body, headers=headers) as reply:
            assert {name.lower() for name in reply.headers} <= HEADERS, (method, path, reply.headers)
            if stream and reply.status == 200:
                return None
            text = await reply.text()
            assert reply.status < 500, (method, path, text)
            if reply.status >= 400:
                assert reply.content_type == "application/problem+json", (method, path, text)
                raise Refusal(reply.status, json.loads(text))
            decoded = json.loads(text) if reply.content_type == "application/json" else text
            if "Location" in reply.headers:
                assert reply.headers["Location"] == "/sessions/" + quote(decoded["session_id"], safe="")  # type: ignore[index]
            return decoded

    async def inject(self, index: int, number: int) -> None:
        """Fill the body of a write with the texts from this one on, and send it until it is taken."""
        route, kind = WRITES[number]
        chance = Random(f"{self._seed} {index} {number}")
        text = self._texts[index]
        beginning = text[:200] if is_key(text) else ""
        # The first write to a text's sessions goes to the one of this very name.
        session_id = text if beginning and number == 0 else f"{beginning}{index}-{number}"
        call_id = f"{beginning}c"
        await self._prepare(route, session_id, call_id, chance)
        kept = _kept(route, session_id, call_id, text, chance)
        filler = Filler(islice(cycle(self._texts), index, None), chance, kept)
        body = filler.fill(kind)
        if await self._send(route, path_of(route, session_id=session_id, call_id=call_id), body, filler):
            # An empty text beside the choice of an agent is no message.
            dropped = {""} if route.path == STREAM else set[str]()
            await self._check(session_id, {"x", "t", session_id, call_id, text}, filler, dropped)

    async def probe(self, index: int, number: int) -> None:
        """Put one text into one parameter of a route; the session that it asks for is mostly unknown."""
        route, place, name = PLACES[number]
        text = self._texts[index]
        keys = {key: text if (place, key) == ("path", name) else "nobody" for key in route.keys}
        query = {"after": "0", **({name: text} if place == "query" else {})}
        headers = {name: text} if place == "header" else {}
        if not all(keys.values()) or (headers and not SENDABLE.fullmatch(text)):
            return
        path = f"{path_of(route, **keys)}?{urlencode(query)}"
        kinds = bodies_of(route)
        body = Filler(cycle(["plain"]), Random(0), {"session_id": "nobody"}).fill(kinds[0]) if kinds else None
        try:
            await self.ask(route.method, path, body, stream=route.media_type == EVENT_STREAM, **headers)
        except Refusal:
            self.refused += 1
        else:
            self.stored += 1
            assert place != "path" or is_key(text), (route.path, text)

    async def _prepare(self, route: Route, session_id: str, call_id: str, chance: Random) -> None:
        """What must be there before the write makes sense."""
        self.sessions.add(session_id)
        if (route.method, route.path) in MAKING:
            return
        await self.ask("POST", "/sessions", {"session_id": session_id, "title": "t"})
        if route.path == STREAM:
            called = {"role": "assistant", "tool_calls": [{"id": call_id, "function": {"name": "x"}}]}
            await self.ask("POST", path_of(MESSAGES, session_id=session_id), called)
        if route.path == DECISION or (route.path == STREAM and chance.random() < 0.5):
            waiting = {"call_id": call_id, "tool_name": "x", "arguments": {}}
            await self.ask("POST", path_of(APPROVALS, session_id=session_id), waiting)

    async def _send(self, route: Route, path: str, body: Json, filler: Filler) -> bool:
        while True:
            try:
                await self.ask(route.method, path, body)
            except Refusal as refusal:
                self.refused += 1
                if refusal.status in (404, 409) and route.path == STREAM:
                    return False
                _mend(refusal, body, filler)
            else:
                self.stored += 1
                return not route.admin

    async def _check(self, session_id: str, known: set[str], filler: Filler, dropped: set[str]) -> None:
        """What was stored is shown as it was sent, but for what is `dropped`, and nothing else is."""
        shown = [await self.ask("GET", path_of(route, session_id=session_id)) for route in READS]
        messages = await self._follow(session_id)
        # What a tool came to is said as text: a value as its JSON.
        results = [m["content"] for m in messages if m["role"] == "tool" and '"deep":' in str(m["content"])]
        shown += [messages, [json.loads(result) for result in results if isinstance(result, str)]]
        texts = {text.removeprefix("Error: ") for text in strings_in(shown)}
        assert not (missing := set(filler.texts) - texts - dropped), (session_id, missing)
        ours = known.union(filler.texts, (result for result in results if isinstance(result, str)))
        strange = {text for text in texts - ours if not OWN.fullmatch(text)}
        assert not strange, (session_id, strange)
        kept = [part for part in parts_of(shown) if isinstance(part, dict) and "deep" in part]
        assert all(value in kept for value in filler.values), session_id

    async def _follow(self, session_id: str) -> list[Json]:
        """The messages as the stream of the session's events has them; the same as its page has."""
        page = await self.ask("GET", path_of(MESSAGES, session_id=session_id))
        wanted = page["messages"]
        received = b""
        url = URL(self._url + path_of(EVENTS, session_id=session_id), encoded=True)
        async with self._http.get(url) as reply:
            while received.count(b"\n\n") < len(wanted):
                piece = await reply.content.readany()
                assert piece, (session_id, received)
                received += piece
        sent = [json.loads(line[6:]) for line in received.split(b"\n") if line.startswith(b"data: ")]
        assert sent[: len(wanted)] == wanted, session_id
        return wanted


def _kept(route: Route, session_id: str, call_id: str, text: str, chance: Random) -> dict[str, Json]:
    """The fields that must fit to what is there already."""
    kept = {"session_id": session_id, "decision": "edit", "expires_in": 3600}
    if route.path != STREAM:
        return kept
    # The call of a tool comes to one of two ends; an error becomes a text.
    ends = chance.choice(({"error": UNSET}, {"error": text, "result": UNSET}))
    return {**kept, "agent_type": DEFAULT_AGENT, "call_id": call_id, **ends}


def _mend(refusal: Refusal, body: Json, filler: Filler) -> None:
    """Put a plain text where one was refused, which must have been wrong there."""
    assert refusal.status == 422, refusal
    [place] = refusal.problem["errors"]
    *way, last = [name or int(index) for name, index in PLACE.findall(place["path"])]
    for step in way:
        body = body[step]
    text = body[last]
    assert isinstance(text, str), refusal
    assert not is_key(text), refusal
    body[last] = "plain"
    filler.texts.remove(text)
    filler.texts.append("plain")
