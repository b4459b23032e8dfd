"""The states of sessions in memory, shared by the session managers of a database, saved as they change."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from runtime.compat import operations
from runtime.compat.operations import Values, as_utc
from runtime.compat.store_thread import StoreThread
from runtime.models import utc_now


@dataclass
class Message:
    """A message of a session."""

    role: str
    content: str | None
    name: str | None = None

    def model_dump(self) -> Values:
        """The message as a dict."""
        return {"role": self.role, "content": self.content, "name": self.name}


@dataclass
class SessionState:
    """A session in memory. Tool calls and their results are dicts; callers may append dicts of their own."""

    session_id: str
    messages: list[Message | Values] = field(default_factory=list)
    last_activity: datetime = field(default_factory=utc_now)

    def history(self) -> list[Values]:
        """The messages as dicts."""
        return [each.model_dump() if isinstance(each, Message) else each for each in self.messages]


class SessionStates:
    """Reads a session when it is first asked for. Each change is saved before its call returns.

    What callers append to a list of messages themselves is saved with the next change, or at the end.
    """

    def __init__(self, thread: StoreThread) -> None:
        self.thread = thread
        self.lock = thread.lock
        self.known: dict[str, SessionState] = {}
        # How many messages of a session were saved last.
        self._saved: dict[str, int] = {}
        thread.flushes.append(self.flush)

    def find(self, session_id: str) -> SessionState | None:
        """The session, from memory or from the database."""
        state = self.known.get(session_id)
        if state is not None:
            return state
        loaded = self.thread.run(lambda store: operations.load_session(store, session_id))
        if loaded is None:
            return None
        with self.lock:
            return self.known.setdefault(session_id, self._state_from(loaded))

    def _state_from(self, loaded: Values) -> SessionState:
        messages = [_message_from(message) for message in loaded["messages"]]
        self._saved[loaded["session_id"]] = len(messages)
        return SessionState(loaded["session_id"], messages, as_utc(loaded["last_activity"]))

    def create(self, session_id: str, system_prompt: str | None) -> SessionState:
        """A new session. Raises ValueError where it exists, and IntegrityError where it is deleted."""
        exists = self.find(session_id) is not None
        with self.lock:
            if exists or session_id in self.known:
                raise ValueError(f"Session {session_id} already exists")
            state = SessionState(session_id)
            if system_prompt:
                state.messages.append(Message("system", system_prompt))
            self.known[session_id] = state
            saving = self._save(state)
        try:
            saving.result()
        except BaseException:
            self.known.pop(session_id, None)
            raise
        return state

    def _save(self, state: SessionState) -> Future[None]:
        """Save a session; the lock is held, so that the states of a session are saved in their order."""
        messages, last_activity = state.history(), state.last_activity
        saving = self.thread.submit(
            lambda store: operations.save_session(store, state.session_id, messages, last_activity)
        )
        saving.add_done_callback(lambda done: self._note_saved(state.session_id, len(messages), done))
        return saving

    def _note_saved(self, session_id: str, count: int, saving: Future[None]) -> None:
        if not saving.cancelled() and saving.exception() is None:
            self._saved[session_id] = count

    def get_or_create(self, session_id: str, system_prompt: str | None) -> SessionState:
        """The session, made where it is missing."""
        state = self.find(session_id)
        if state is not None:
            return state
        try:
            return self.create(session_id, system_prompt)
        except ValueError:
            # Another thread has made it meanwhile.
            return self.known[session_id]

    def add(self, session_id: str, message: Message | Values) -> Future[None]:
        """Add a message, and begin to save the session. Raises ValueError where it does not exist."""
        state = self.find(session_id)
        if state is None:
            raise ValueError(f"Session {session_id} not found")
        with self.lock:
            state.messages.append(message)
            state.last_activity = utc_now()
            return self._save(state)

    def all(self) -> list[SessionState]:
        """All sessions that are not deleted."""
        stored = self.thread.run(lambda store: operations.list_all_sessions(store, False))
        found = [self.find(session_id) for session_id in dict.fromkeys([*self.known, *stored])]
        return [state for state in found if state is not None]

    def delete(self, session_id: str) -> None:
        """Delete a session, if there is one."""
        with self.lock:
            self.known.pop(session_id, None)
            self._saved.pop(session_id, None)
            deleting = self.thread.submit(
                lambda store: operations.delete_session(store, session_id, soft=True)
            )
        deleting.result()

    def flush(self) -> None:
        """Save the sessions to which callers have added messages themselves."""
        states = list(self.known.values())
        changed = [state for state in states if len(state.messages) != self._saved.get(state.session_id)]
        self.thread.run_all([partial(self._save_locked, state) for state in changed])

    def _save_locked(self, state: SessionState) -> Future[None]:
        with self.lock:
            return self._save(state)


def _message_from(loaded: Values) -> Message | Values:
    """A stored message: those of tools, and those that call tools, stay dicts."""
    if "tool_calls" in loaded or "tool_call_id" in loaded:
        return loaded
    return Message(**{name: loaded.get(name) for name in ("role", "content", "name")})  # type: ignore[arg-type]


def tool_message(call_id: str, tool_name: str, result: str) -> dict[str, Any]:
    """The message with the result of a tool."""
    return {"role": "tool", "content": result, "tool_call_id": call_id, "name": tool_name}
