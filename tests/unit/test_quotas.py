"""The shares of clients: what is taken is given back, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from runtime.access.quotas import ClientLimits, Kind, QuotaLease, Quotas
from runtime.errors import TooManyRequests

LIMITS = ClientLimits(requests=3, streams=2, bytes=100)
CLIENTS = st.sampled_from(["address 1", "address 2", "token 1", "token 2"])


class Requests(RuleBasedStateMachine):
    """Requests that come, are counted for an address and perhaps a token, take, give back, and end.

    A ledger of the test says what each client has in hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shares = Quotas(LIMITS)
        self.ledger: dict[QuotaLease, tuple[list[str], Counter[Kind]]] = {}

    holdings = Bundle("holdings")

    @rule(target=holdings, clients=st.lists(CLIENTS, min_size=1, max_size=2, unique=True))
    def begin(self, clients: list[str]) -> QuotaLease:
        holding = QuotaLease(self.shares).__enter__()
        self.ledger[holding] = ([], Counter(requests=1))  # type: ignore[assignment]
        for client in clients:
            had = self.held(client, "requests")
            try:
                holding.join(client)
            except TooManyRequests:
                assert had >= LIMITS.requests
                break
            assert had < LIMITS.requests
            self.ledger[holding][0].append(client)
        return holding

    @rule(holding=holdings, kind=st.sampled_from(["streams", "bytes"]), amount=st.integers(1, 120))
    def take(self, holding: QuotaLease, kind: Kind, amount: int) -> None:
        clients, taken = self.ledger[holding]
        most = getattr(LIMITS, kind)
        fits = all(not (had := self.held(client, kind)) or had + amount <= most for client in clients)
        try:
            holding.take(kind, amount)
        except TooManyRequests:
            assert not fits
        else:
            assert fits
            taken[kind] += amount

    @rule(holding=holdings, kind=st.sampled_from(["requests", "streams", "bytes"]))
    def give_back(self, holding: QuotaLease, kind: Kind) -> None:
        holding.give_back(kind)
        del self.ledger[holding][1][kind]

    @rule(holding=consumes(holdings), error=st.sampled_from([None, ValueError, KeyboardInterrupt]))
    def end(self, holding: QuotaLease, error: type[BaseException] | None) -> None:
        holding.__exit__(error, None, None)
        del self.ledger[holding]

    def held(self, client: str, kind: Kind) -> int:
        return sum(taken[kind] for clients, taken in self.ledger.values() if client in clients)

    @invariant()
    def the_counts_are_those_of_the_ledger(self) -> None:
        expected = Counter[tuple[str, Kind]]()
        for clients, taken in self.ledger.values():
            for kind, amount in taken.items():
                expected.update({(client, kind): amount for client in clients if amount})
        # Also the memory: a client that has nothing in hand is not remembered.
        assert dict(self.shares._held) == dict(expected)

    def teardown(self) -> None:
        for holding in list(self.ledger):
            holding.__exit__(None, None, None)
        assert not self.shares._held


TestRequests = Requests.TestCase


def test_what_nothing_stands_beside_always_fits() -> None:
    shares = Quotas(LIMITS)
    with QuotaLease(shares) as holding:
        holding.join("a")
        holding.take("bytes", 10_000)
        with pytest.raises(TooManyRequests, match="bytes in hand: a client may have 100"):
            holding.take("bytes", 1)
    assert not shares._held


def test_a_refusal_of_the_second_client_takes_nothing_of_the_first() -> None:
    shares = Quotas(LIMITS)
    with QuotaLease(shares) as busy:
        busy.join("token")
        busy.take("streams", 2)
        with QuotaLease(shares) as other:
            other.join("address")
            other.join("token")
            with suppress(TooManyRequests):
                other.take("streams")
            assert ("address", "streams") not in shares._held
    assert not shares._held


def test_one_client_does_not_stand_in_the_way_of_another() -> None:
    shares = Quotas(LIMITS)
    with QuotaLease(shares) as greedy, QuotaLease(shares) as modest:
        greedy.join("a")
        greedy.take("bytes", 100)
        modest.join("b")
        modest.take("bytes", 100)
        with pytest.raises(TooManyRequests):
            greedy.take("bytes", 1)


async def test_who_waits_for_room_gets_it_when_it_is_given_back() -> None:
    shares = Quotas(LIMITS)
    with QuotaLease(shares) as first, QuotaLease(shares) as second, QuotaLease(shares) as third:
        for holding in (first, second, third):
            holding.join("address")
            holding.join("token")
        await first.wait("bytes", 60)
        waiting = [asyncio.ensure_future(each.wait("bytes", 60)) for each in (second, third)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        first.give_back("bytes")
        await waiting[0]
        assert (second.taken("bytes"), third.taken("bytes"), waiting[1].done()) == (60, 0, False)
        # Whoever gives up leaves nothing behind.
        waiting[1].cancel()
        with suppress(asyncio.CancelledError):
            await waiting[1]
        second.give_back("bytes")
        await third.wait("bytes", 100)
        with pytest.raises(TooManyRequests):
            first.take("bytes", 1)
    with QuotaLease(shares) as other:
        other.join("token")
        other.take("bytes", 100)


async def test_of_two_clients_both_must_have_room() -> None:
    shares = Quotas(LIMITS)
    with QuotaLease(shares) as of_token, QuotaLease(shares) as both:
        of_token.join("token")
        of_token.take("bytes", 60)
        both.join("address")
        both.join("token")
        waiting = asyncio.ensure_future(both.wait("bytes", 60))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        with QuotaLease(shares) as other:
            other.join("address")
            other.take("bytes", 100)
