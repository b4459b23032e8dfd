"""Agents: which there are, which holds a session, and how it was handed over."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web
from msgspec import Struct, convert

from runtime.api.agent_history import AgentHistoryEntry, agent_history
from runtime.api.authorization import make_room
from runtime.api.request import write_options
from runtime.api.responses import reply
from runtime.api.routes import ENGINE, Call, Route
from runtime.models import AgentSwitch, EncodedObject, Key, Limit, Seq, Text
from runtime.store.validation import JsonObject


class NewHandover(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to hand the conversation to. A program may name agents of its own."""

    agent: Key
    reason: Text | None = None
    metadata: JsonObject | None = None


class ContextChange(Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata that the agent context shall have."""

    metadata: JsonObject


class SwitchesQuery(Struct, frozen=True):
    limit: Limit = 100
    before: Seq | None = None


class SwitchedReply(Struct, frozen=True):
    """Who held the conversation, and who holds it now."""

    session_id: str
    from_agent: str
    to_agent: str
    switch_count: int
    version: int


class CurrentAgent(Struct, frozen=True):
    """The agent that holds the conversation, and those that held it, oldest first.

    The latest 1,000 handovers and 1 MiB at most.
    """

    session_id: str
    current_agent: str
    agent_history: list[AgentHistoryEntry]
    switch_count: int


class Switches(Struct, frozen=True):
    """Handovers of a session, latest first, and the number to read on with: before it."""

    session_id: str
    switches: list[AgentSwitch]
    next_before: int | None


class Context(Struct, frozen=True, rename={"encoded_metadata": "metadata"}):
    """Which agent holds a session."""

    session_id: str
    current_agent: str
    switch_count: int
    created_at: datetime
    updated_at: datetime
    encoded_metadata: EncodedObject


class AgentSummary(Struct, frozen=True):
    """What an agent is for and which tools it may call.

    With `has_file_restrictions` it may write only some kinds of files.
    """

    type: str
    name: str
    description: str
    allowed_tools: list[str]
    has_file_restrictions: bool


async def list_agents(call: Call[None, None]) -> web.Response:
    """The agents of the configuration."""
    registry = call.request.app[ENGINE].registry
    return reply(
        [
            AgentSummary(
                type=kind,
                name=agent.name,
                description=agent.description,
                allowed_tools=registry.allowed_tools(kind),
                has_file_restrictions=bool(agent.files),
            )
            for kind, agent in registry.agents.items()
        ]
    )


async def get_current_agent(call: Call[None, None]) -> web.Response:
    """Who holds the conversation, with the latest handovers before."""
    context, switches = await call.store.read_agents(call.session_id, owner=call.owner)
    body = CurrentAgent(
        session_id=context.session_id,
        current_agent=context.current_agent,
        agent_history=agent_history(context, switches),
        switch_count=context.switch_count,
    )
    return reply(body, context.version)


async def switch_agent(call: Call[None, NewHandover]) -> web.Response:
    """Hand the conversation over. To the current agent: nothing changes."""
    outcome = await call.store.switch_agent(
        call.session_id,
        call.body.agent,
        reason=call.body.reason,
        metadata=call.body.metadata,
        **write_options(call.request),
    )
    body = convert(outcome, SwitchedReply, from_attributes=True)
    return reply(body, outcome.version, replayed=outcome.replayed)


async def list_switches(call: Call[SwitchesQuery, None]) -> web.Response:
    """A page of handovers, latest first: of 4 MiB at most, or one."""
    query = call.query
    page = await call.store.list_switches(
        call.session_id, limit=query.limit, before=query.before, owner=call.owner
    )
    return reply(Switches(page.session_id, page.switches, page.next_before), page.version)


async def get_context(call: Call[None, None]) -> web.Response:
    """The agent context."""
    context = await call.store.get_context(call.session_id, owner=call.owner)
    return reply(convert(context, Context, from_attributes=True), context.version)


async def update_context(call: Call[None, ContextChange]) -> web.Response:
    """Set the metadata of the agent context."""
    outcome = await call.store.update_context(
        call.session_id, call.body.metadata, **write_options(call.request)
    )
    await make_room(call.request, len(memoryview(outcome.context.encoded_metadata)))
    body = convert(outcome.context, Context, from_attributes=True)
    return reply(body, outcome.version, replayed=outcome.replayed)


ROUTES = (
    Route("POST", "/sessions/{session_id}/agent", switch_agent, {200: SwitchedReply}, writes=True),
    Route("GET", "/sessions/{session_id}/switches", list_switches, {200: Switches}),
    Route("GET", "/sessions/{session_id}/context", get_context, {200: Context}),
    Route("PATCH", "/sessions/{session_id}/context", update_context, {200: Context}, writes=True),
    Route("GET", "/agents", list_agents, {200: list[AgentSummary]}),
    Route("GET", "/agents/{session_id}/current", get_current_agent, {200: CurrentAgent}),
)
