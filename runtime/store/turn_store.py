"""The store as the turn engine uses it: starts, advances and watches turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, Unpack

from msgspec import structs

from runtime.errors import RequestError, TurnRunning
from runtime.models import Approval, Decision
from runtime.store.core import Core
from runtime.store.follow.subscriptions import TurnWatch
from runtime.store.messages import Messages, new_messages
from runtime.store.read.orphaned_turns import OrphanedTurn, OrphanedTurns
from runtime.store.read.turn_reader import CallDecision, TurnReader
from runtime.store.records import Head, JsonText, SessionKey, TurnRow
from runtime.store.submission import WriteOptions, session_key
from runtime.store.validation import JsonValue, check_key, json_text, optional_text
from runtime.store.write.outcomes import TurnWritten
from runtime.store.write.turn_commands import AdvanceTurn, CallVerdict, InterruptTurn, StartTurn, ToolResult


class ToolOutput(JsonValue):
    """The output of a tool as the JSON of a text: a text unchanged, any other value as its JSON."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> Self:
        """The text of a decoded value. Raises ValueError for what cannot be stored."""
        plain = super().parse(value)
        return plain if isinstance(value, str) else cls(json_text(plain.text))


def tool_result(
    call_id: str, content: Any, *, tool_name: str | None = None, failed: bool = False
) -> ToolResult:
    """The result of a tool call: a text unchanged, any other value as its JSON. Raises InvalidInput."""
    if not isinstance(content, ToolOutput):
        text = content if isinstance(content, str) else json_text(content, "$.message.result")
        content = ToolOutput(json_text(text, "$.message.result"))
    return ToolResult(
        check_key(call_id, "$.message.call_id"),
        content.text,
        optional_text(tool_name, "$.message.tool_name"),
        failed,
    )


def verdict(call_id: str, decision: Decision, modified_arguments: Any, feedback: str | None) -> CallVerdict:
    """A person's decision about a tool call. Raises InvalidInput."""
    return CallVerdict(
        check_key(call_id, "$.message.call_id"),
        decision,
        optional_text(modified_arguments, "$.message.modified_arguments"),
        optional_text(feedback, "$.message.feedback"),
    )


class TurnStore:
    """Starts, advances and interrupts turns, and knows which turns this process runs.

    A turn that is stored as this instance's but is not running here any more is orphaned, like a turn of an
    instance that has died: it is interrupted when it is found.
    """

    def __init__(self, core: Core) -> None:
        self.instance = core.database.instance
        self.turn_reader = TurnReader(core.database, core.reader)
        self._core = core
        self._orphaned = OrphanedTurns(core.database, self._runs_here)
        # The sessions whose turn is being started, and the turn that runs in each.
        self._starting: Counter[SessionKey] = Counter()
        self._running: dict[SessionKey, str] = {}

    def _runs_here(self, key: SessionKey) -> bool:
        return self._starting[key] > 0 or key in self._running

    async def start_turn(
        self,
        session_id: str | None,
        *,
        messages: Messages = (),
        agent: str | None = None,
        result: ToolResult | None = None,
        result_decides: bool = False,
        verdict: CallVerdict | None = None,
        **options: Unpack[WriteOptions],
    ) -> TurnWritten:
        """Start a turn; create the session if it is missing, with an id of its own for None.

        The turn starts with messages of the user, a handover to `agent`, the result of a tool, or a verdict
        on a waiting call. With `result_decides` a result decides the approval that its call waits for: it
        approves, and a failure rejects. The turn has ended already if there is nothing to ask a model.
        Otherwise it runs until `advance_turn` stores its end, or until `abandon`. Raises TurnRunning,
        CallNotOpen, ApprovalPending and the errors of `Store.decide_approval`.
        """
        key = session_key(session_id, options)
        agent = None if agent is None else check_key(agent, "$.message.agent_type")
        command = StartTurn(key, new_messages(messages, "$.message"), agent, result, verdict)
        try:
            return await self._start(command, result_decides, options)
        except TurnRunning:
            if not await self.interrupt_lost_turn(key.session_id, owner=key.owner):
                raise
        return await self._start(command, result_decides, options)

    async def _start(self, command: StartTurn, result_decides: bool, options: WriteOptions) -> TurnWritten:
        self._starting[command.key] += 1
        try:
            request = await self._core.submitter.request(command, options)
            request = structs.replace(request, result_decides=result_decides)
            written = await self._core.submitter.submit(request, TurnWritten, options)
            if written.turn.status == "running" and not written.replayed:
                self._running[request.key] = written.turn.turn_id
            return written
        finally:
            self._starting[command.key] -= 1
            if not self._starting[command.key]:
                del self._starting[command.key]

    async def advance_turn(self, command: AdvanceTurn) -> TurnWritten:
        """Store the progress of a running turn. Raises TurnLost if this instance no longer has it."""
        written = await self._core.submitter.write(command, TurnWritten, {})
        if command.ending is not None:
            self.abandon(command.key, command.turn_id)
        return written

    def abandon(self, key: SessionKey, turn_id: str) -> None:
        """Note that this process does not run a turn any more, whether or not its end is stored."""
        if self._running.get(key) == turn_id:
            del self._running[key]

    async def get_turn(self, key: SessionKey, turn_id: str) -> tuple[Head, TurnRow]:
        """A turn and the head of its session; a lost turn is interrupted first. Raises TurnNotFound."""
        await self._core.writer.settle(key)
        head, turn = await self.turn_reader.get_turn(key, turn_id)
        if turn.runs and await self.interrupt_lost_turn(key.session_id, owner=key.owner):
            return await self.turn_reader.get_turn(key, turn_id)
        return head, turn

    async def interrupt_lost_turn(self, session_id: str, *, owner: str = "") -> bool:
        """Interrupt the running turn of a session if it is lost.

        Returns whether no turn runs now: another instance may have interrupted it first.
        """
        key = await self._core.settled_key(owner, session_id)
        head = await self._core.reader.get_head(key)
        lost, runs = await self._orphaned.find(head.id, head.key)
        if lost is not None:
            await self._interrupt(lost)
        return lost is not None or not runs

    async def interrupt_lost_turns(self) -> int:
        """Interrupt the lost turns of all sessions and owners; return how many there were.

        To be called regularly: a turn whose instance hangs is found when it has not changed for a lease.
        """
        return sum([await self._interrupt(turn) for turn in await self._orphaned.find_all()])

    async def _interrupt(self, lost: OrphanedTurn) -> bool:
        try:
            command = InterruptTurn(lost.key, lost.turn_id, lost.beat)
            turn = (await self._core.submitter.write(command, TurnWritten, {})).turn
        except RequestError:
            # Another instance or a deletion of the session was faster, or the turn is still running.
            return False
        self._core.metrics.turn_ended(turn)
        return True

    def watch_turns(self, session_db_id: int, on_change: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `on_change` whenever a stop of a turn of the session may have been requested."""
        return self._core.subscriptions.subscribed(session_db_id, TurnWatch(on_change))

    async def find_caller(self, approval: Approval, *, owner: str = "") -> str | None:
        """The agent that made the call which an approval is for, or None if no turn made it."""
        return await self.turn_reader.find_caller(SessionKey(owner, approval.session_id), approval)

    async def list_decisions(
        self, session_id: str, call_ids: Sequence[str], *, owner: str = ""
    ) -> list[CallDecision]:
        """The approvals for these calls, with their present status."""
        key = await self._core.settled_key(owner, session_id)
        return await self.turn_reader.list_decisions(key, call_ids, self._core.clock())

    async def list_edited_arguments(
        self, session_id: str, call_ids: Sequence[str], *, owner: str = ""
    ) -> dict[str, JsonText]:
        """The arguments that a person substituted for the model's, by call id."""
        return await self.turn_reader.list_edited_arguments(SessionKey(owner, session_id), call_ids)

    async def count_waiting_approvals(self) -> int:
        """The number of tool calls that wait for a decision, of all owners."""
        return await self._core.reader.count_waiting_approvals()

    async def forget_old(self) -> None:
        """Delete old idempotency keys and old events of turns. To be called regularly."""
        await self._core.cleanup.forget_old()
