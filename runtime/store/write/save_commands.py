"""The commands of programs that keep the state of a session themselves, and save all of it as it is.

What they give is stored as it is given, times and counts too. Only `SaveSession`, and an approval that may
make its session, count as activity.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from runtime.models import ApprovalStatus
from runtime.store.records import JsonText
from runtime.store.write.commands import Command, CreateApproval, ReplaceMessages, UpdateSession


class SaveSession(ReplaceMessages, frozen=True, kw_only=True):
    """Make this the history and the time of the last activity; `title` is set where there is none.

    A session that is made has no agent context of its own until one is saved.
    """

    create: bool = True
    last_activity: datetime
    title: JsonText | None = None


class SaveDetails(UpdateSession, frozen=True):
    """Change a title or a description."""


class SavedSwitch(Struct, frozen=True):
    """A handover as it is saved; the first agent of a session has no origin."""

    from_agent: str | None
    to_agent: str
    switched_at: datetime
    reason: JsonText | None = None
    metadata: JsonText = "{}"


class SaveContext(Command, frozen=True):
    """Make this the agent context, with exactly these handovers.

    `created_at` is kept from the first save on.
    """

    agent: str
    metadata: JsonText
    created_at: datetime
    switch_count: int
    switches: tuple[SavedSwitch, ...]


class RemoveContext(Command, frozen=True):
    """Take the agent context and its handovers away: the session has the one again that it began with."""


class SaveApproval(CreateApproval, frozen=True, kw_only=True):
    """Let a tool call wait, unless some session of the same owners has an approval for it already.

    With `create` a missing session is made, and a deleted one is restored. A copy is stored whatever other
    sessions have, with its status and time: it names no owners.
    """

    create: bool = False
    owners: tuple[str, ...] = ()
    status: ApprovalStatus = "pending"
    created_at: datetime | None = None


class SetApprovalStatus(Command, frozen=True):
    """Set the status of an approval, decided or not; None takes it away."""

    call_id: str
    status: ApprovalStatus | None
