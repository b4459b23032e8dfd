"""How much one client may have in hand: requests, streams, and bytes of bodies."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal, Self

from msgspec import Struct

from runtime.errors import TooManyRequests

Kind = Literal["requests", "streams", "bytes"]

WHAT = {
    "requests": "requests in hand",
    "streams": "open streams",
    "bytes": "bytes in hand",
}


class ClientLimits(Struct, frozen=True):
    """The most that one client, an address or a token, may have in hand at a time."""

    requests: int
    streams: int
    bytes: int


class Quotas:
    """What every client has in hand.

    A request that acts for another owner is counted for the client that sends it: the quotas bound what one
    sender makes this process hold, and a sender could name a new owner with each request.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._held: Counter[tuple[str, Kind]] = Counter()
        self._waiting: dict[tuple[str, Kind], list[asyncio.Future[None]]] = {}

    def take(self, client: str, kind: Kind, amount: int) -> None:
        """Count this for a client. Raises TooManyRequests; a client's only item is always admitted."""
        held = self._held[client, kind]
        most: int = getattr(self._limits, kind)
        if held and held + amount > most:
            raise TooManyRequests(
                f"{WHAT[kind]}: a client may have {most}, and yours would have {held + amount}"
            )
        self._held[client, kind] = held + amount

    async def wait(self, client: str, kind: Kind, amount: int) -> None:
        """Count this for a client as soon as there is room for it."""
        while True:
            try:
                return self.take(client, kind, amount)
            except TooManyRequests:
                room = asyncio.get_running_loop().create_future()
                self._waiting.setdefault((client, kind), []).append(room)
                await room

    def give_back(self, client: str, kind: Kind, amount: int) -> None:
        """Count it no more."""
        for room in self._waiting.pop((client, kind), ()):
            if not room.done():
                room.set_result(None)
        left = self._held[client, kind] - amount
        if left:
            self._held[client, kind] = left
        else:
            # Clients come and go: one that has nothing in hand takes no memory.
            del self._held[client, kind]


class QuotaLease:
    """What one request takes of the shares of its clients; given back when a `with` over it ends."""

    __slots__ = ("_clients", "_shares", "_taken")

    def __init__(self, shares: Quotas) -> None:
        self._shares = shares
        self._clients: list[str] = []
        self._taken: dict[Kind, int] = {"requests": 1}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for kind in tuple(self._taken):
            self.give_back(kind)

    def join(self, client: str) -> None:
        """Count the request for this client as well, before it takes anything. Raises TooManyRequests."""
        self._shares.take(client, "requests", 1)
        self._clients.append(client)

    def take(self, kind: Kind, amount: int = 1) -> None:
        """Take so much more for each client. Raises TooManyRequests, and then takes nothing."""
        for n, client in enumerate(self._clients):
            try:
                self._shares.take(client, kind, amount)
            except TooManyRequests:
                for earlier in self._clients[:n]:
                    self._shares.give_back(earlier, kind, amount)
                raise
        self._taken[kind] = self._taken.get(kind, 0) + amount

    def taken(self, kind: Kind) -> int:
        """How much of this kind is taken."""
        return self._taken.get(kind, 0)

    async def wait(self, kind: Kind, amount: int) -> None:
        """Take so much more for each client as soon as there is room for it."""
        taken: list[str] = []
        try:
            # The address before the token, always: of two that wait none waits for the other.
            for client in self._clients:
                await self._shares.wait(client, kind, amount)
                taken.append(client)
        except BaseException:
            for client in taken:
                self._shares.give_back(client, kind, amount)
            raise
        self._taken[kind] = self._taken.get(kind, 0) + amount

    def give_back(self, kind: Kind) -> None:
        """Give back all of this kind."""
        amount = self._taken.pop(kind, 0)
        for client in self._clients if amount else ():
            self._shares.give_back(client, kind, amount)
