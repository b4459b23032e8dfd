"""A database with everything large that clients can store, and every route that reads, asked for it."""

from __future__ import annotations

from typing import NamedTuple

from runtime.store.messages import new_messages
from runtime.store.records import SessionKey
from runtime.store.store import Store
from runtime.store.turn_events import NewEvent
from runtime.store.write.commands import CreateApproval
from runtime.store.write.turn_commands import AdvanceTurn, Ending


class Amount(NamedTuple):
    """How many large things there are of each kind, and the bytes of each."""

    count: int  # type: ignore[assignment]
    size: int


# One character beyond the Basic Multilingual Plane makes Python keep four bytes for each of the others.
MARK = "🎉"


async def fill(store: Store, amount: Amount) -> str:
    """Fill an empty store; return the id of a turn."""
    text = "x" * (amount.size - 64) + MARK
    await store.create_session("s")
    for number in range(amount.count):
        await store.append_messages("s", [{"role": "user", "content": text}])
        await store.switch_agent("s", f"agent-{number}", metadata={"k": text})
        await store.create_approval("s", f"call-{number}", "tool", text)
    await store.create_session("gone", metadata={"k": text})
    await store.delete_session("gone")
    turn_id = await _run_turn(store, amount)
    # Last, and so first in every list.
    for number in range(amount.count):
        await store.create_session(f"large-{number}", metadata={"k": text})
    await store.update_context("large-0", {"k": text})
    return turn_id


async def _run_turn(store: Store, amount: Amount) -> str:
    """A turn with events as large as an answer of a model may be."""
    written = await store.turns.start_turn("turns", messages=[{"role": "user", "content": "go"}])
    for number in range(amount.count):
        data = '{"note":"' + "x" * min(amount.size, 1_000_000) + '"}'
        last = number == amount.count - 1
        step = AdvanceTurn(
            SessionKey("", "turns"),
            written.turn.turn_id,
            store.turns.instance,
            written.beat,
            messages=new_messages([{"role": "assistant", "content": "x"}]) if last else (),
            approvals=(CreateApproval(SessionKey("", "turns"), f"call-{number}", '"tool"', "{}"),),
            events=(NewEvent("message", data),),
            ending=Ending("completed") if last else None,
        )
        written = await store.turns.advance_turn(step)
    return written.turn.turn_id


# What is asked of each GET route; a route may be asked in several ways.
ASKED = {
    "/sessions": ["/sessions?limit=1000", "/sessions?limit=1000&include_deleted=true&count=true"],
    "/sessions/{session_id}": ["/sessions/large-0"],
    "/sessions/{session_id}/stats": ["/sessions/s/stats"],
    "/sessions/{session_id}/messages": [
        "/sessions/s/messages?limit=1000",
        "/sessions/s/messages?last=1000",
        "/sessions/s/messages?last=1000&role=user",
        "/sessions/s/messages?page=1&page_size=1000",
    ],
    "/sessions/{session_id}/history": ["/sessions/s/history"],
    "/history/{session_id}": ["/history/s"],
    "/sessions/{session_id}/events": ["/sessions/s/events?after=0"],
    "/sessions/{session_id}/switches": ["/sessions/s/switches?limit=1000"],
    "/sessions/{session_id}/context": ["/sessions/large-0/context"],
    "/agents": ["/agents"],
    "/agents/{session_id}/current": ["/agents/s/current"],
    "/sessions/{session_id}/approvals": ["/sessions/s/approvals", "/sessions/s/approvals?status=pending"],
    "/sessions/{session_id}/pending-approvals": ["/sessions/s/pending-approvals"],
    "/sessions/{session_id}/turns": ["/sessions/turns/turns?limit=1000"],
    "/sessions/{session_id}/turns/{turn_id}/events": ["/sessions/turns/turns/TURN/events"],
    "/events/metrics": ["/events/metrics"],
    "/events/metrics/sessions": ["/events/metrics/sessions"],
    "/events/metrics/session/{session_id}": ["/events/metrics/session/turns"],
    "/events/audit-log": ["/events/audit-log?limit=1000", "/events/audit-log?session_id=s"],
    "/owners": ["/owners?limit=1000"],
    "/search": ["/search?q=a*&limit=100"],
    "/events/stats": ["/events/stats"],
    "/sessions/{session_id}/export": ["/sessions/s/export", "/sessions/large-0/export"],
    "/owners/{owner}/export": ["/owners/nobody/export"],
    "/health": ["/health"],
    "/health/ready": ["/health/ready"],
    "/metrics": ["/metrics"],
    "/openapi.json": ["/openapi.json"],
}
