"""The rules of agents. What holds of all rules stands in __init__.py."""

from __future__ import annotations

from runtime.store.records import JsonText, SwitchRow
from runtime.store.write import commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import Request
from runtime.store.write.outcomes import ContextWritten, Outcome, Switched
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.rule import Rules


def _switch_agent(batch: Batch, request: Request, command: commands.SwitchAgent) -> Outcome:
    session = batch.get(request)
    from_agent = session.known_details().current_agent
    if switch(session, request, command.agent, command.reason, command.metadata):
        session.raise_version(request.at, "agent")
    return Switched(
        session_id=request.key.session_id,
        version=session.version,
        from_agent=from_agent,
        to_agent=command.agent,
        switch_count=session.known_details().switch_count,
    )


def switch(
    session: PlannedSession, request: Request, agent: str, reason: JsonText | None, metadata: JsonText = "{}"
) -> bool:
    """Hand a session over; False where the agent holds it already."""
    details = session.known_details()
    if agent == details.current_agent:
        return False
    n, count = details.last_switch + 1, details.switch_count + 1
    session.change_details(
        current_agent=agent, switch_count=count, last_switch=n, context_updated_at=request.at
    )
    session.switches.append(SwitchRow(n, details.current_agent, agent, request.at, reason, metadata))
    return True


def _update_context(batch: Batch, request: Request, command: commands.UpdateContext) -> Outcome:
    session = batch.get(request)
    if session.known_details().context_metadata != command.metadata:
        session.change_details(context_metadata=command.metadata, context_updated_at=request.at)
        session.raise_version(request.at, "context")
    return ContextWritten(
        session_id=request.key.session_id, version=session.version, context=session.context()
    )


RULES: Rules = {
    commands.SwitchAgent: _switch_agent,
    commands.UpdateContext: _update_context,
}
