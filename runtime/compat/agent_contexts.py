"""The agent contexts in memory, shared by the context managers of a database, saved as they change."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Self

from runtime.compat import operations
from runtime.compat.operations import Values, as_utc
from runtime.compat.store_thread import StoreThread
from runtime.models import utc_now

logger = logging.getLogger("agent_runtime.compat")


class AgentType(str, Enum):  # noqa: UP042 - as text it is AgentType.CODER, as it was
    """The agents of the earlier service; any other name that is stored makes a member of its own."""

    ORCHESTRATOR = "orchestrator"
    CODER = "coder"
    ARCHITECT = "architect"
    DEBUG = "debug"
    ASK = "ask"
    UNIVERSAL = "universal"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        return member


def _nothing(_: AgentContext) -> None:
    """A context that no manager has made is not saved."""


@dataclass
class AgentContext:
    """Which agent has a session.

    `switch_agent` and `add_metadata` save it. What is changed otherwise is saved with the next change, or at
    the end.
    """

    session_id: str
    current_agent: AgentType = AgentType.ORCHESTRATOR
    agent_history: list[Values] = field(default_factory=list)
    metadata: Values = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)
    last_switch_at: datetime | None = None
    switch_count: int = 0
    on_change: Callable[[AgentContext], None] = field(default=_nothing, repr=False, compare=False)

    def switch_agent(self, new_agent: AgentType, reason: str) -> None:
        """Hand the session over; to the agent that has it already changes nothing."""
        if new_agent == self.current_agent:
            return
        now = utc_now()
        entry = {"from": self.current_agent.value, "to": new_agent.value, "reason": reason}
        self.agent_history.append({**entry, "timestamp": now.isoformat()})
        self.current_agent, self.last_switch_at = new_agent, now
        self.switch_count += 1
        self.on_change(self)

    def get_agent_history(self) -> list[Values]:
        """A copy of the handovers, `{from, to, reason, timestamp}`."""
        return self.agent_history.copy()

    def add_metadata(self, key: str, value: Any) -> None:
        """Set an entry of the metadata."""
        self.metadata[key] = value
        self.on_change(self)

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """An entry of the metadata, or the default."""
        return self.metadata.get(key, default)

    def fingerprint(self) -> str:
        """A text that differs where anything to be saved does."""
        parts = (self.current_agent.value, self.agent_history, self.metadata, self.switch_count)
        return json.dumps(parts, default=str)


class AgentContexts:
    """Reads a context when it is first asked for. A change is saved before its call returns.

    In a running event loop a change is saved soon, without waiting. A context of a session that does not
    exist yet is kept in memory, and saved with its next change or at the end.
    """

    def __init__(self, thread: StoreThread) -> None:
        self.thread = thread
        self.lock = thread.lock
        self.known: dict[str, AgentContext] = {}
        # What of each context was saved last.
        self._saved: dict[str, str] = {}
        thread.flushes.append(self.flush)

    def find(self, session_id: str) -> AgentContext | None:
        """The context, from memory or from the database."""
        context = self.known.get(session_id)
        if context is not None:
            return context
        loaded = self.thread.run(lambda store: operations.load_agent_context(store, session_id))
        if loaded is None:
            return None
        with self.lock:
            return self.known.setdefault(session_id, self._context_from(loaded))

    def _context_from(self, loaded: Values) -> AgentContext:
        last = loaded["last_switch_at"]
        context = AgentContext(
            session_id=loaded["session_id"],
            current_agent=AgentType(loaded["current_agent"]),
            agent_history=loaded["agent_history"],
            metadata=loaded["metadata"],
            created_at=as_utc(loaded["created_at"]),
            last_switch_at=None if last is None else as_utc(last),
            switch_count=loaded["switch_count"],
            on_change=self._changed,
        )
        self._saved[context.session_id] = context.fingerprint()
        return context

    def _changed(self, context: AgentContext) -> None:
        # A deleted context is not stored again, though somebody may still hold it.
        if self.known.get(context.session_id) is context:
            self.thread.settle(self._save_locked(context))

    def _save(self, context: AgentContext) -> Future[bool]:
        """Save a context; the lock is held, so that the states of a context are saved in their order."""
        fingerprint = context.fingerprint()
        saving = self.thread.submit(
            lambda store: operations.save_agent_context(
                store,
                context.session_id,
                context.current_agent,
                context.agent_history,
                context.metadata,
                context.created_at,
                context.switch_count,
            )
        )
        saving.add_done_callback(lambda done: self._note_saved(context.session_id, fingerprint, done))
        return saving

    def _note_saved(self, session_id: str, fingerprint: str, saving: Future[bool]) -> None:
        if not saving.cancelled() and saving.exception() is None and saving.result():
            self._saved[session_id] = fingerprint

    def get_or_create(self, session_id: str, initial_agent: AgentType) -> AgentContext:
        """The context, made where it is missing."""
        context = self.find(session_id)
        if context is not None:
            return context
        with self.lock:
            context = self.known.get(session_id)
            if context is not None:
                return context
            context = AgentContext(session_id, initial_agent, on_change=self._changed)
            self.known[session_id] = context
            saving = self._save(context)
        saving.result()
        return context

    def delete(self, session_id: str) -> bool:
        """Take a context away; False where there is none."""
        with self.lock:
            was_known = self.known.pop(session_id, None) is not None
            self._saved.pop(session_id, None)
            deleting = self.thread.submit(lambda store: operations.delete_agent_context(store, session_id))
        return deleting.result() or was_known

    def session_ids(self) -> list[str]:
        """The ids of the sessions that have a context."""
        stored = self.thread.run(operations.list_all_contexts)
        return list(dict.fromkeys([*self.known, *stored]))

    def cleanup(self, max_age_hours: float) -> int:
        """Take away the contexts that were made longer ago; return how many."""
        limit = utc_now() - timedelta(hours=max_age_hours)
        found = [self.find(session_id) for session_id in self.session_ids()]
        old = [context for context in found if context is not None and as_utc(context.created_at) < limit]
        return sum([self.delete(context.session_id) for context in old])

    def flush(self) -> None:
        """Save the contexts that have changed otherwise than by their methods."""
        contexts = list(self.known.values())
        changed = [each for each in contexts if each.fingerprint() != self._saved.get(each.session_id)]
        self.thread.run_all([partial(self._save_locked, context) for context in changed])

    def _save_locked(self, context: AgentContext) -> Future[bool]:
        with self.lock:
            return self._save(context)
