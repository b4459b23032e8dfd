"""Public facade of the store: its methods for running and following turns."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, Unpack

from runtime.errors import RequestError, TurnRunning
from runtime.metrics import Metrics
from runtime.models import Approval, Decision, TurnList
from runtime.store.cleanup import forget_old
from runtime.store.commands import JsonText, SessionKey
from runtime.store.feed import TurnListener
from runtime.store.messages import MessageBatch, new_messages
from runtime.store.orphaned_turns import OrphanedTurn, OrphanedTurns
from runtime.store.reads import Reads
from runtime.store.state import Head, TurnPiece, TurnRow
from runtime.store.turn_commands import (
    AdvanceTurn,
    InterruptTurn,
    StartTurn,
    StopTurn,
    ToolResult,
    TurnWritten,
    Verdict,
)
from runtime.store.turn_feed import TurnFollower, parse_position
from runtime.store.turn_reader import CallDecision, TurnReader
from runtime.store.validation import JsonValue, check_key, check_limit, json_text, optional_text
from runtime.store.writes import WriteOptions, Writes, session_key


class ToolOutput(JsonValue):
    """What a tool came to, as the JSON of a text: a text as it is, anything else as JSON."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The text of a decoded value. Raises ValueError for what cannot be stored."""
        plain = super().parse(value)
        return plain if isinstance(value, str) else cls(json_text(plain.text))


def tool_result(
    call_id: str, content: Any, *, tool_name: str | None = None, failed: bool = False
) -> ToolResult:
    """What a tool came to: a text as it is, anything else as JSON. Raises InvalidInput."""
    if not isinstance(content, ToolOutput):
        text = content if isinstance(content, str) else json_text(content, "$.message.result")
        content = ToolOutput(json_text(text, "$.message.result"))
    return ToolResult(
        check_key(call_id, "$.message.call_id"),
        content.text,
        optional_text(tool_name, "$.message.tool_name"),
        failed,
    )


def verdict(call_id: str, decision: Decision, modified_arguments: Any, feedback: str | None) -> Verdict:
    """What a person decided. Raises InvalidInput."""
    return Verdict(
        check_key(call_id, "$.message.call_id"),
        decision,
        optional_text(modified_arguments, "$.message.modified_arguments"),
        optional_text(feedback, "$.message.feedback"),
    )


class Turns(Writes, Reads):
    """Writes and reads about turns. What each raises is said of Writes and Reads."""

    runs_turn: Callable[[SessionKey], bool]
    """Whether this instance runs the turn of a session, or is about to: set by who runs them. One that is
    stored as ours and that nobody runs is lost."""
    _turn_reader: TurnReader
    _lost_turns: OrphanedTurns
    _metrics: Metrics

    @property
    def instance(self) -> str:
        """What this process is known by as the one that runs a turn."""
        return self._database.instance

    async def start_turn(
        self,
        session_id: str,
        *,
        messages: Sequence[Any] | MessageBatch = (),
        agent: str | None = None,
        result: ToolResult | None = None,
        verdict: Verdict | None = None,
        **options: Unpack[WriteOptions],
    ) -> TurnWritten:
        """Begin a turn with messages of the user, after a handover to `agent`, with the result of a tool
        or a verdict on one that waits; in a session that is made where it is missing.

        The turn has `ended` already where there is nothing to ask a model. Raises TurnRunning,
        CallNotOpen, ApprovalPending and what a decision raises.
        """
        key = session_key(session_id, options)
        agent = None if agent is None else check_key(agent, "$.message.agent_type")
        command = StartTurn(key, new_messages(messages, "$.message"), agent, result, verdict)
        try:
            return await self._write(command, TurnWritten, options)
        except TurnRunning:
            if not await self.interrupt_lost_turn(session_id, owner=key.owner):
                raise
        return await self._write(command, TurnWritten, options)

    async def advance_turn(self, command: AdvanceTurn) -> TurnWritten:
        """Store what a running turn came to. Raises TurnLost where it is not this instance's any more."""
        return await self._write(command, TurnWritten, {})

    async def stop_turn(self, session_id: str, turn_id: str, **options: Unpack[WriteOptions]) -> int:
        """Ask for a turn to be stopped; return the session's version. Raises TurnNotFound.

        One that has ended stays as it is.
        """
        key = session_key(session_id, options)
        head, turn = await self._get_turn(key, turn_id)
        if not turn.runs:
            return head.version
        return (await self._write(StopTurn(key, turn_id), TurnWritten, options)).version

    async def interrupt_lost_turn(self, session_id: str, *, owner: str = "") -> bool:
        """End the turn of a session that runs although its process has died.

        Says whether that one, or whichever was seen to run a moment ago, has ended: others look as well.
        """
        head = await self._reader.get_head(await self._settled(owner, session_id))
        lost, runs = await self._lost_turns.find(head.id, head.key)
        if lost is not None:
            await self._interrupt(lost)
        return lost is not None or not runs

    async def interrupt_lost_turns(self) -> int:
        """End every such turn, of all sessions and owners, and those that hang; return how many there were.

        To be called regularly: a turn hangs that stands still from one call to another, a lease later.
        """
        return sum([await self._interrupt(turn) for turn in await self._lost_turns.find_all()])

    async def _interrupt(self, lost: OrphanedTurn) -> bool:
        try:
            command = InterruptTurn(lost.key, lost.turn_id, lost.beat)
            turn = (await self._write(command, TurnWritten, {})).turn
        except RequestError:
            # Another instance or a deletion of the session was quicker, or the turn goes on.
            return False
        self._metrics.turn_ended(turn)
        return True

    async def forget_old(self) -> None:
        """Forget idempotency keys older than a day, and events of turns that are not kept any longer.

        To be called regularly: only what is old by a clock that did not jump within an hour is forgotten.
        """
        await forget_old(self._database, self._writer, self._clock(), self._steady, self._events_kept)

    async def list_turns(self, session_id: str, *, limit: int = 100, owner: str = "") -> TurnList:
        """The turns of a session, latest first."""
        check_limit(limit, "limit")
        key = await self._settled(owner, session_id)
        found = await self._turn_reader.list_turns(key, limit)
        # Only the last one can run.
        runs = any(turn.status == "running" for turn in found.turns[:1])
        if runs and await self.interrupt_lost_turn(session_id, owner=owner):
            return await self._turn_reader.list_turns(key, limit)
        return found

    async def find_caller(self, approval: Approval, *, owner: str = "") -> str | None:
        """The agent that made the call which an approval is for; None where no turn made it."""
        return await self._turn_reader.find_caller(SessionKey(owner, approval.session_id), approval)

    async def list_decisions(
        self, session_id: str, call_ids: Sequence[str], *, owner: str = ""
    ) -> list[CallDecision]:
        """What became of those calls that waited, or wait, for a person."""
        key = await self._settled(owner, session_id)
        return await self._turn_reader.list_decisions(key, call_ids, self._clock())

    async def list_edited_arguments(
        self, session_id: str, call_ids: Sequence[str], *, owner: str = ""
    ) -> dict[str, JsonText]:
        """The arguments that a person put in place of the model's, by call."""
        return await self._turn_reader.list_edited_arguments(SessionKey(owner, session_id), call_ids)

    async def _get_turn(self, key: SessionKey, turn_id: str) -> tuple[Head, TurnRow]:
        """A turn as it stands, with its session's head: ended, if its process has died."""
        await self._settled(key.owner, key.session_id)
        head, turn = await self._turn_reader.get_turn(key, turn_id)
        if turn.runs and await self.interrupt_lost_turn(key.session_id, owner=key.owner):
            return await self._turn_reader.get_turn(key, turn_id)
        return head, turn

    @contextlib.asynccontextmanager
    async def follow_turn(
        self, session_id: str, turn_id: str, *, after: str | None = None, owner: str = ""
    ) -> AsyncIterator[TurnFollower]:
        """Follow a turn from behind the event with the id `after` on. Raises TurnNotFound, InvalidInput."""
        head, turn = await self._get_turn(SessionKey(owner, session_id), turn_id)
        position = parse_position(after, turn)
        follower = TurnFollower(self._turn_reader, head.id, turn.turn_id, turn.n, position)
        with self._listening(head.id, follower):
            yield follower

    @contextlib.asynccontextmanager
    async def follow_new_turn(self, started: TurnWritten) -> AsyncIterator[TurnFollower]:
        """Follow a turn that has just been started, from its beginning. To be entered before anything else
        is waited for: so nothing has to be read."""
        id, turn_id, n = started.session_db_id, started.turn.turn_id, started.n
        follower = TurnFollower(self._turn_reader, id, turn_id, n, beginning=started.beginning)
        with self._listening(id, follower):
            yield follower

    def watch_turns(self, session_db_id: int, on_change: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `on_change` whenever a turn of the session may have been asked to stop."""
        return self._listening(session_db_id, _Watch(on_change))

    @contextlib.contextmanager
    def _listening(self, session_db_id: int, listener: TurnListener) -> Iterator[None]:
        self._feed.add_listener(session_db_id, listener)
        try:
            yield
        finally:
            self._feed.remove_listener(session_db_id, listener)


class _Watch:
    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def on_change(self, what: Collection[str], pieces: Sequence[TurnPiece] | None) -> None:
        if "turns" in what or "deleted" in what:
            self._on_change()

    def end(self) -> None:
        """The turn goes on until its runner ends it."""
