"""What the store has to do, said as simply as possible: one request after the other, on plain lists.

Knows nothing of batches, rows, heads or caches, and shares no rule with `runtime.store`: tests compare the
two. A refusal is told by its stable code.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import singledispatchmethod

from msgspec import UNSET, Raw, structs

from runtime.models import AgentSwitch, Approval, ForkOrigin
from runtime.store.records import SessionKey
from runtime.store.write.commands import (
    AppendMessages,
    Command,
    CreateApproval,
    CreateSession,
    DecideApproval,
    DeleteApproval,
    DeleteSession,
    EraseRows,
    ForgetOld,
    ReplaceMessages,
    Request,
    RestoreSession,
    SwitchAgent,
    TruncateMessages,
    UpdateContext,
    UpdateSession,
)
from runtime.store.write.fork_commands import ForkSession
from runtime.store.write.outcomes import (
    Appended,
    ApprovalDeleted,
    ApprovalWritten,
    ContextWritten,
    Erased,
    Forgotten,
    Outcome,
    Receipt,
    Replaced,
    SessionDeleted,
    Switched,
    Truncated,
)
from runtime.store.write.turn_commands import AdvanceTurn, InterruptTurn, StartTurn, StopTurn
from tests.reference.conversation import (
    Conversation,
    Refusal,
    add,
    agent_at,
    cut,
    is_same,
    merged,
    value,
    written,
)
from tests.reference.turns import (
    advance,
    begin,
    end_with_session,
    forget_events,
    interrupt,
    last_turn,
    stop,
    turn_written,
)

# What changes no version.
SPEECH = "speech"
PAST_TENSE = {"approve": "approved", "edit": "edited", "reject": "rejected"}


@dataclass
class Reply:
    """What a request under an idempotency key was answered with."""

    fingerprint: str
    outcome: Outcome
    at: datetime


class Model:
    """Every conversation, and `log`: which conversation changed, and what of it, in order."""

    def __init__(self) -> None:
        self.sessions: dict[SessionKey, Conversation] = {}
        self.replies: dict[tuple[str, str], Reply] = {}
        self.log: list[tuple[int, str]] = []
        self._made = 0

    def apply(self, request: Request) -> Outcome | str:
        """Do what is asked; the outcome, or the code of the error."""
        try:
            return self._replayed(request) or self._done(request)
        except Refusal as refusal:
            return str(refusal)

    def version(self, key: SessionKey) -> int:
        """The version of a session; 0 where there is none."""
        return self.sessions[key].version if key in self.sessions else 0

    def _replayed(self, request: Request) -> Outcome | None:
        if request.idempotency is None:
            return None
        reply = self.replies.get((request.key.owner, request.idempotency.key))
        if reply is None:
            return None
        if reply.fingerprint != request.idempotency.fingerprint:
            raise Refusal("idempotency_key_reused")
        return structs.replace(reply.outcome, replayed=True)

    def _done(self, request: Request) -> Outcome:
        outcome = self._do(request.command, request)
        if request.idempotency is not None:
            name = (request.key.owner, request.idempotency.key)
            self.replies[name] = Reply(request.idempotency.fingerprint, outcome, request.at)
        return outcome

    def _live(self, request: Request) -> Conversation:
        session = self.sessions.get(request.key)
        if session is None or session.deleted_at is not None:
            raise Refusal("session_not_found")
        self._expect(request, session.version)
        return session

    def _expect(self, request: Request, version: int) -> None:
        if request.if_match not in (None, version):
            raise Refusal("version_mismatch")

    def _new(self, request: Request) -> Conversation:
        self._expect(request, 0)
        self._made += 1
        session = Conversation(self._made, request.key, request.at, request.at)
        self.sessions[request.key] = session
        return session

    def _changed(self, session: Conversation, request: Request, *what: str) -> None:
        session.version += 1
        session.last_activity = max(session.last_activity, request.at)
        if what:
            session.changed_version = session.version
        self.log += [(session.number, each) for each in what]

    @singledispatchmethod
    def _do(self, command: Command, request: Request) -> Outcome:
        raise AssertionError(f"the model does not know {command!r}")

    @_do.register
    def _create_session(self, command: CreateSession, request: Request) -> Outcome:
        if command.if_missing and request.key in self.sessions:
            session = self._live(request)
            return written(session)
        if request.key in self.sessions:
            raise Refusal("session_exists")
        session = self._new(request)
        session.title, session.description = command.title, command.description
        session.metadata, session.agent = command.metadata, command.agent
        add(session, command.messages, request.at)
        self._changed(session, request, "session")
        return written(session, created=True)

    @_do.register
    def _fork_session(self, command: ForkSession, request: Request) -> Outcome:
        source = self.sessions.get(SessionKey(request.key.owner, command.source))
        if source is None or source.deleted_at is not None:
            raise Refusal("session_not_found")
        self._expect(request, source.version)
        if request.key in self.sessions:
            raise Refusal("session_exists")
        through = source.last_seq if command.after is None else command.after
        if through > source.last_seq:
            raise Refusal("invalid_input")
        session = self._new(structs.replace(request, if_match=None))
        copied = [each for each in source.messages if each.seq <= through]
        session.messages, session.last_seq = copied, through
        session.title = source.title if command.title is UNSET else command.title
        session.metadata = source.metadata if command.metadata is UNSET else command.metadata
        session.description, session.context_metadata = source.description, source.context_metadata
        session.forked_from = ForkOrigin(command.source, through)
        session.agent, session.switches = source.agent, list(source.switches)
        if command.after is not None:
            session.agent, session.switches = agent_at(source, copied[-1].timestamp if copied else None)
        self._changed(session, request, "session")
        return written(session, created=True)

    @_do.register
    def _update_session(self, command: UpdateSession, request: Request) -> Outcome:
        session = self._live(request)
        given = {
            name: getattr(command, name)
            for name in ("title", "description", "metadata", "is_active")
            if getattr(command, name) is not UNSET
        }
        if command.metadata is not UNSET:
            given["metadata"] = merged(session.metadata, command.metadata)
        if any(getattr(session, name) != new for name, new in given.items()):
            vars(session).update(given)
            self._changed(session, request, "session")
        return written(session)

    @_do.register
    def _delete_session(self, command: DeleteSession, request: Request) -> Outcome:
        by_cleanup = command.idle_since is not None or command.deleted_since is not None
        if by_cleanup and not self._may_go(command, request):
            return SessionDeleted(session_id=request.key.session_id, version=0, deleted=False)
        session = self.sessions[request.key] if by_cleanup else self._live(request)
        if command.hard:
            del self.sessions[request.key]
        else:
            ended = end_with_session(session, request)
            session.version += 1
            session.changed_version = session.version
            session.deleted_at = request.at
            self.log.append((session.number, "deleted"))
            if ended:
                self.log.append((session.number, "turns"))
        return SessionDeleted(session_id=request.key.session_id, version=session.version)

    def _may_go(self, command: DeleteSession, request: Request) -> bool:
        session = self.sessions.get(request.key)
        if session is None:
            return False
        if command.idle_since is not None:
            return session.deleted_at is None and session.last_activity < command.idle_since
        assert command.deleted_since is not None
        return session.deleted_at is not None and session.deleted_at < command.deleted_since

    @_do.register
    def _restore_session(self, command: RestoreSession, request: Request) -> Outcome:
        session = self.sessions.get(request.key)
        if session is None:
            raise Refusal("session_not_found")
        self._expect(request, session.version)
        if session.deleted_at is not None:
            session.deleted_at = None
            self._changed(session, request, "session")
        return written(session)

    @_do.register
    def _append_messages(self, command: AppendMessages, request: Request) -> Outcome:
        session = self._live(request)
        receipts = add(session, command.messages, request.at)
        if receipts:
            self._changed(session, request)
        return Appended(
            session_id=request.key.session_id,
            version=session.version,
            messages=receipts,
            last_seq=session.last_seq,
        )

    @_do.register
    def _replace_messages(self, command: ReplaceMessages, request: Request) -> Outcome:
        created = command.create and request.key not in self.sessions
        session = self._new(request) if created else self._live(request)
        same = 0
        for stored, message in zip(session.messages, command.messages, strict=False):
            if not is_same(stored, message):
                break
            same += 1
        removed = cut(session, same)
        added = add(session, command.messages[same:], request.at)
        if created or removed or added:
            self._changed(session, request, *(["messages"] if removed else []))
        return Replaced(
            session_id=request.key.session_id,
            version=session.version,
            messages=[Receipt(each.seq, each.timestamp) for each in session.messages],
            last_seq=session.last_seq,
            message_count=len(session.messages),
        )

    @_do.register
    def _truncate_messages(self, command: TruncateMessages, request: Request) -> Outcome:
        session = self._live(request)
        deleted = cut(session, sum(each.seq <= command.after for each in session.messages))
        if deleted:
            self._changed(session, request, "messages")
        return Truncated(
            session_id=request.key.session_id,
            version=session.version,
            deleted=deleted,
            last_seq=session.last_seq,
        )

    @_do.register
    def _switch_agent(self, command: SwitchAgent, request: Request) -> Outcome:
        session = self._live(request)
        before = session.agent
        if command.agent != before:
            session.agent = command.agent
            session.context_updated_at = request.at
            session.switches.append(
                AgentSwitch(
                    id=len(session.switches) + 1,
                    from_agent=before,
                    to_agent=command.agent,
                    switched_at=request.at,
                    reason=value(command.reason),
                    encoded_metadata=Raw(command.metadata),
                )
            )
            self._changed(session, request, "agent")
        return Switched(
            session_id=request.key.session_id,
            version=session.version,
            from_agent=before,
            to_agent=command.agent,
            switch_count=len(session.switches),
        )

    @_do.register
    def _update_context(self, command: UpdateContext, request: Request) -> Outcome:
        session = self._live(request)
        if session.context_metadata != command.metadata:
            session.context_metadata = command.metadata
            session.context_updated_at = request.at
            self._changed(session, request, "context")
        return ContextWritten(
            session_id=request.key.session_id, version=session.version, context=session.context()
        )

    @_do.register
    def _create_approval(self, command: CreateApproval, request: Request) -> Outcome:
        session = self._live(request)
        if command.call_id in session.approvals:
            raise Refusal("approval_exists")
        seconds = command.expires_in
        approval = Approval(
            call_id=command.call_id,
            session_id=request.key.session_id,
            tool_name=value(command.tool_name),
            encoded_arguments=Raw(command.arguments),
            reason=value(command.reason),
            status="pending",
            created_at=request.at,
            expires_at=None if seconds is None else request.at + timedelta(seconds=seconds),
            decided_at=None,
            encoded_modified_arguments=Raw("null"),
            feedback=None,
        )
        return self._keep_approval(session, request, approval)

    def _keep_approval(self, session: Conversation, request: Request, approval: Approval) -> Outcome:
        session.approvals[approval.call_id] = approval
        self._changed(session, request, "approvals")
        return ApprovalWritten(session_id=request.key.session_id, version=session.version, approval=approval)

    @_do.register
    def _decide_approval(self, command: DecideApproval, request: Request) -> Outcome:
        session = self._live(request)
        approval = self._approval(session, command.call_id)
        status, modified = PAST_TENSE[command.decision], value(command.modified_arguments)
        if approval.status != "pending":
            if (approval.status, approval.modified_arguments) != (status, modified):
                raise Refusal("approval_decided")
            return ApprovalWritten(
                session_id=request.key.session_id, version=session.version, approval=approval
            )
        if approval.expires_at is not None and request.at >= approval.expires_at:
            raise Refusal("approval_expired")
        encoded = Raw(command.modified_arguments or "null")
        decided = {"decided_at": request.at, "encoded_modified_arguments": encoded}
        return self._keep_approval(
            session,
            request,
            structs.replace(approval, status=status, feedback=value(command.feedback), **decided),
        )

    def _approval(self, session: Conversation, call_id: str) -> Approval:
        if call_id not in session.approvals:
            raise Refusal("approval_not_found")
        return session.approvals[call_id]

    @_do.register
    def _delete_approval(self, command: DeleteApproval, request: Request) -> Outcome:
        session = self._live(request)
        self._approval(session, command.call_id)
        del session.approvals[command.call_id]
        self._changed(session, request, "approvals")
        return ApprovalDeleted(session_id=request.key.session_id, version=session.version)

    @_do.register
    def _forget_old(self, command: ForgetOld, request: Request) -> Outcome:
        self.replies = {name: reply for name, reply in self.replies.items() if reply.at >= command.before}
        for session in self.sessions.values():
            forget_events(session, command.events_before)
        return Forgotten(session_id="", version=0)

    @_do.register
    def _erase_rows(self, command: EraseRows, request: Request) -> Outcome:
        """What it erases was gone before."""
        return Erased(session_id="", version=0, rows=0, finished=())

    @_do.register
    def _start_turn(self, command: StartTurn, request: Request) -> Outcome:
        if request.key in self.sessions:
            session = self._live(request)
        elif command.result or command.verdict:
            raise Refusal("session_not_found")
        else:
            session = self._new(request)
        self._changed(session, request, *begin(session, command, request))
        return turn_written(session)

    @_do.register
    def _advance_turn(self, command: AdvanceTurn, request: Request) -> Outcome:
        session = self._live(request)
        before = session.turns[-1].position if session.turns else None
        what = advance(session, command, request)
        if what is not None and (what or command.messages):
            self._changed(session, request, *what)
        if session.turns[-1].position != before:
            self.log.append((session.number, SPEECH))
        return turn_written(session)

    @_do.register
    def _stop_turn(self, command: StopTurn, request: Request) -> Outcome:
        session = self._live(request)
        if stop(last_turn(session, command.turn_id)):
            self._changed(session, request, "turns")
        return turn_written(session)

    @_do.register
    def _interrupt_turn(self, command: InterruptTurn, request: Request) -> Outcome:
        session = self._live(request)
        interrupt(session, last_turn(session, command.turn_id), command.beat, request)
        self._changed(session, request, "turns")
        return turn_written(session)
