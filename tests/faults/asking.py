"""One request of the load, and what its answer says of a write."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp

from tests.faults.journal import Fate, Journal

# Seconds. Those who cannot be served now come back this soon, however long they are told to wait.
PAUSE = 0.02
BUSY = (429, 503)


class Target:
    """Where a server is. While that is not known, nobody asks.

    `life` names the server that is there: one that comes after it has another name.
    """

    def __init__(self, name: str = "server", url: str = "") -> None:
        self._name = name
        self._lives = 0
        self._known = asyncio.Event()
        self.url = ""
        self.move(url)

    @property
    def life(self) -> str:
        return f"{self._name} {self._lives}"

    @property
    def is_known(self) -> bool:
        return self._known.is_set()

    def move(self, url: str) -> None:
        """Another server serves from now on, at this URL; empty: none does."""
        self.url = url
        if url:
            self._lives += 1
            self._known.set()
        else:
            self._known.clear()

    async def wait(self) -> str:
        """The URL, once there is one."""
        await self._known.wait()
        return self.url


class Answer(NamedTuple):
    """What came back. Status 0: the connection broke; -1: none was made, so nothing was asked."""

    status: int
    body: Any = None
    replayed: bool = False
    life: str = ""

    @property
    def fate(self) -> Fate:
        """What it says of a write."""
        if self.status in (200, 201):
            return "acknowledged"
        if self.status == 202:
            return "accepted"
        said_no = self.status == -1 or 400 <= self.status < 500
        return "refused" if said_no or (self.status == 503 and self.code != "unconfirmed") else "unknown"

    @property
    def is_final(self) -> bool:
        """Whether the same request, sent again, would be answered the same."""
        return 200 <= self.status < 500 and self.status not in BUSY

    @property
    def code(self) -> str:
        return self.body.get("code", "") if isinstance(self.body, dict) else ""


class Asker:
    """Asks, with a bound on the time; what no server may answer is noted as an oddity."""

    def __init__(
        self, http: aiohttp.ClientSession, journal: Journal, headers: Mapping[str, str], timeout: float
    ) -> None:
        self.http, self.headers = http, headers
        self._journal = journal
        self._timeout = timeout

    async def ask(
        self, target: Target, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        """Send one request, once. Pauses where it is not served now."""
        url, life = await target.wait(), target.life
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._send(method, url + path, body, headers, life)
        except TimeoutError:
            self._journal.oddities.append(f"hung: {method} {path} had no answer in {self._timeout:g} s")
            return Answer(0, life=life)
        except aiohttp.ClientConnectorError:
            answer = Answer(-1, life=life)
        except aiohttp.ClientError:
            answer = Answer(0, life=life)
        await self._note(answer, f"{method} {path}")
        return answer

    async def _send(self, method: str, url: str, body: Any, headers: Mapping[str, str], life: str) -> Answer:
        sent = {**self.headers, **headers}
        async with self.http.request(method, url, json=body, headers=sent) as reply:
            text = await reply.text()
            if reply.status in BUSY and "Retry-After" not in reply.headers:
                self._journal.oddities.append(f"odd: {reply.status} without Retry-After")
            return Answer(reply.status, _decoded(text), "Idempotent-Replayed" in reply.headers, life)

    async def _note(self, answer: Answer, asked: str) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        self._journal.refusals[f"{status} {answer.code}".strip()] += 1
        if status >= 400 and status not in BUSY:
            self._journal.oddities.append(f"odd: {asked} was answered {status} {answer.body}")
        await asyncio.sleep(PAUSE)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
