"""The rules of states that are saved as they are given. What holds of all rules stands in __init__.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, structs

from runtime.errors import ApprovalNotFound, SessionNotFound
from runtime.models import DEFAULT_AGENT
from runtime.store.changes import Change
from runtime.store.records import SessionKey, SwitchRow
from runtime.store.write import save_commands as commands
from runtime.store.write.batch import Batch
from runtime.store.write.commands import CreateSession, Request
from runtime.store.write.outcomes import Outcome, Saved
from runtime.store.write.planned_session import PlannedSession
from runtime.store.write.rules.approvals import new_approval
from runtime.store.write.rules.messages import replace_history
from runtime.store.write.rules.rule import Rules
from runtime.store.write.rules.sessions import new_details
from runtime.store.write.save_commands import SavedSwitch

_NO_TITLE = (None, '""')


def _save_session(batch: Batch, request: Request, command: commands.SaveSession) -> Outcome:
    session = batch.find(request.key)
    if session is None:
        session = batch.add(request, new_details(request, CreateSession(request.key)))
        session.is_bare = True
    else:
        session = batch.get(request)
    last_seq, before = session.last_seq, session.known_details()
    _, removed = replace_history(batch, session, command.messages, request.at)
    title = command.title if before.title in _NO_TITLE else before.title
    session.change_details(title=title, is_active=True)
    changes: list[Change] = ["messages"] if removed else []
    # Followers are told of messages by the messages; the time alone is a change of the session.
    if session.details != before or (session.last_seq == last_seq and not removed):
        changes.append("session")
    session.raise_version(command.last_activity, *changes)
    # As it is given, also where it is earlier than the last one.
    session.last_activity = command.last_activity
    return _saved(session)


def _saved(session: PlannedSession) -> Saved:
    return Saved(session_id=session.key.session_id, version=session.version)


def _save_details(batch: Batch, request: Request, command: commands.SaveDetails) -> Outcome:
    session = batch.get(request)
    fields = {"title": command.title, "description": command.description}
    session.change_details(**{name: text for name, text in fields.items() if text is not UNSET})
    session.raise_version(session.last_activity, "session")
    return _saved(session)


def _save_context(batch: Batch, request: Request, command: commands.SaveContext) -> Outcome:
    session = batch.get(request)
    first = _lacks_context(session)
    session.change_details(
        current_agent=command.agent,
        switch_count=command.switch_count,
        context_metadata=command.metadata,
        context_created_at=command.created_at if first else session.known_details().context_created_at,
        context_updated_at=request.at,
    )
    _replace_switches(session, command.switches)
    session.is_bare = False
    session.raise_version(session.last_activity, "agent", "context")
    return _saved(session)


def _lacks_context(session: PlannedSession) -> bool:
    """Whether nobody has saved or changed the context that the session began with."""
    details = session.known_details()
    return session.is_bare and details.switch_count == 0 and details.context_metadata == "{}"


def _replace_switches(session: PlannedSession, switches: Sequence[SavedSwitch]) -> None:
    """Make these the handovers, whatever their count is said to be."""
    session.are_switches_replaced = True
    session.change_details(last_switch=len(switches))
    session.switches = [
        SwitchRow(n, each.from_agent or "", each.to_agent, each.switched_at, each.reason, each.metadata)
        for n, each in enumerate(switches, 1)
    ]


def _remove_context(batch: Batch, request: Request, command: commands.RemoveContext) -> Outcome:
    session = batch.find(request.key)
    if session is None:
        raise SessionNotFound(request.key.session_id)
    if _lacks_context(session):
        return structs.replace(_saved(session), changed=False)
    session.change_details(
        current_agent=DEFAULT_AGENT, switch_count=0, context_metadata="{}", context_updated_at=request.at
    )
    _replace_switches(session, ())
    session.is_bare = True
    session.raise_version(session.last_activity, "agent", "context")
    return _saved(session)


def _save_approval(batch: Batch, request: Request, command: commands.SaveApproval) -> Outcome:
    session = batch.find(request.key)
    if session is None and not command.create:
        raise SessionNotFound(request.key.session_id)
    if _is_taken(batch, request.key, session, command):
        version = 0 if session is None else session.version
        return Saved(session_id=request.key.session_id, version=version, changed=False)
    if session is None:
        session = batch.add(request, new_details(request, CreateSession(request.key)))
    approval = new_approval(command, command.created_at or request.at)
    session.approvals[command.call_id] = structs.replace(approval, status=command.status)
    if command.create:
        # It is there for its approvals alone: a new one takes it out of the clean-up's way.
        session.deleted_at = None
    session.raise_version(request.at if command.create else session.last_activity, "approvals")
    return _saved(session)


def _is_taken(
    batch: Batch, key: SessionKey, session: PlannedSession | None, command: commands.SaveApproval
) -> bool:
    """Whether this session has an approval for the call, or another one, stored or made in this batch."""
    if session is not None and batch.approval(session, command.call_id) is not None:
        return True
    stored = batch.stored.approval_places.get(command.call_id, set())
    made = {other for other, planned in batch.sessions.items() if command.call_id in planned.approvals}
    return any(place.owner in command.owners for place in (stored | made) - {key})


def _set_approval_status(batch: Batch, request: Request, command: commands.SetApprovalStatus) -> Outcome:
    session = batch.find(request.key)
    approval = None if session is None else batch.approval(session, command.call_id)
    if session is None or approval is None:
        raise ApprovalNotFound(request.key.session_id, command.call_id)
    if command.status is None:
        del session.approvals[command.call_id]
        if command.call_id in session.stored_approvals:
            session.deleted_approvals.add(command.call_id)
    else:
        decided_at = None if command.status == "pending" else request.at
        changed = structs.replace(approval, status=command.status, decided_at=decided_at)
        session.approvals[command.call_id] = changed
    session.raise_version(session.last_activity, "approvals")
    return _saved(session)


RULES: Rules = {
    commands.SaveSession: _save_session,
    commands.SaveDetails: _save_details,
    commands.SaveContext: _save_context,
    commands.RemoveContext: _remove_context,
    commands.SaveApproval: _save_approval,
    commands.SetApprovalStatus: _set_approval_status,
}
