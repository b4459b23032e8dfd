"""`plan` against a model that does one request after the other (W3), batch by batch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from msgspec import structs

from runtime.errors import CutNotMeasured, RequestError
from runtime.models import Approval
from runtime.store.changes import CommittedChange
from runtime.store.records import SessionKey
from runtime.store.write.batch import PlanInput
from runtime.store.write.commands import (
    AppendMessages,
    Command,
    CreateApproval,
    DecideApproval,
    DeleteApproval,
    EraseRows,
    ForgetOld,
    Request,
)
from runtime.store.write.erasing import AtOnce
from runtime.store.write.kept_replies import decode_reply
from runtime.store.write.outcomes import Appended, Erased, Outcome, TurnWritten
from runtime.store.write.plan import Plan, plan
from tests.reference.conversation import Conversation, StoredTurn
from tests.reference.store import SPEECH, Model
from tests.support.generated_turns import TURNS
from tests.support.interleavings import Interleaving, Step, clean_up, interleavings, opening
from tests.support.memory_tables import COMPARED, Columns, Tables, json_or_none
from tests.support.random_values import EXISTING, NOON, POOL, TO_BE_NAMED, Chance

pytestmark = pytest.mark.usefixtures("uncounted")

# A hundred, unless another profile says more (`--hypothesis-profile=long`).
EXAMPLES = settings().max_examples
thoroughly = settings(
    max_examples=10 * EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def forget_old(chance: Chance) -> ForgetOld:
    return ForgetOld(TO_BE_NAMED, chance.time(), chance.time())


def erase(chance: Chance) -> EraseRows:
    return EraseRows(TO_BE_NAMED, chance.number(5) + 1)


@pytest.fixture(scope="module")
def tables() -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


@pytest.fixture(scope="module", params=[0, 1, 4])
def hasty_tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    """Tables where what is more than a few rows is left to be erased in portions."""
    tables = Tables(AtOnce(request.param, 1000 * request.param))
    yield tables
    tables.close()


class Run:
    """A model and tables that are given the same requests: one by one, and in batches."""

    def __init__(self, tables: Tables) -> None:
        self.model = Model()
        self.tables = tables
        self.expected: list[Outcome | str] = []
        self.before: dict[int, int] = {}
        self.commit(opening())
        self._begin()

    def batches(self, steps: Sequence[Step]) -> Iterator[list[Request]]:
        """The requests, cut into batches; the model has done each batch when it is yielded."""
        interleaving, batch = Interleaving(self.model), []
        for step in steps:
            request = interleaving.request(step)
            batch.append(request)
            note(batch[-1])
            self.expected.append(self.model.apply(batch[-1]))
            # Forgetting takes effect when its batch ends.
            if step.ends or isinstance(batch[-1].command, ForgetOld):
                yield batch
                self._begin()
                batch = []
        yield batch

    def commit(self, requests: Sequence[Request]) -> Plan:
        """Plan requests that the model has not seen yet, and store them."""
        self._begin()
        self.expected = [self.model.apply(request) for request in requests]
        return self.store(requests)

    def store(self, requests: Sequence[Request]) -> Plan:
        planned = plan(self.tables.known(requests), requests)
        if any(isinstance(outcome, CutNotMeasured) for outcome in planned.outcomes):
            measured = [
                self.tables.measured(request) if isinstance(outcome, CutNotMeasured) else request
                for request, outcome in zip(requests, planned.outcomes, strict=True)
            ]
            return self.store(measured)
        self.tables.apply(planned.rows)
        return planned

    def erase_all(self) -> None:
        """Erase all that is left, a row or two at a time."""
        request = Request(EraseRows(TO_BE_NAMED, 2), TO_BE_NAMED, NOON)
        while self.tables.known([request]).portions:
            (outcome,) = self.store([request]).outcomes
            assert isinstance(outcome, Erased)
            assert 0 <= outcome.rows <= 2
            assert outcome.rows or outcome.finished, "a portion that erases nothing would never end"

    def _begin(self) -> None:
        self.expected = []
        self.before = {session.number: session.version for session in self.model.sessions.values()}
        self.model.log.clear()


def outcomes(planned: Plan) -> list[Outcome | str]:
    return [each.code if isinstance(each, RequestError) else visible(each) for each in planned.outcomes]


def visible(outcome: Outcome) -> Outcome:
    """The outcome without what the model does not know: db ids, and events in pieces."""
    if isinstance(outcome, TurnWritten):
        return structs.replace(outcome, session_db_id=0, beginning=())
    return structs.replace(outcome, rows=0, finished=()) if isinstance(outcome, Erased) else outcome


def state(model: Model) -> dict[SessionKey, Columns]:
    """What the tables have to hold, from what the model holds."""
    return {key: columns(session) for key, session in model.sessions.items()}


def columns(session: Conversation) -> Columns:
    context = session.context()
    return {
        "session": session_columns(session),
        "messages": [message_columns(each) for each in session.messages],
        "agent_contexts": [
            (
                *(session.agent, session.created_at, context.updated_at),
                *(context.switch_count, session.context_metadata),
            )
        ],
        "session_labels": label_columns(session),
        "agent_switches": [(*structs.astuple(switch)[:-1], switch.metadata) for switch in session.switches],
        "pending_approvals": [approval_columns(each) for _, each in sorted(session.approvals.items())],
        "turns": [turn_columns(n, each) for n, each in enumerate(session.turns, 1)],
        "turn_events": [
            (n, number, kind, data)
            for n, each in enumerate(session.turns, 1)
            for number, (kind, data) in sorted(each.events.items())
        ],
    }


def label_columns(session: Conversation) -> list[tuple[str, str, str]]:
    """What lists are filtered by, in the order of the names."""
    is_live = session.is_active and session.deleted_at is None
    members = {
        f"metadata{json.dumps(name)}": json.dumps(member)
        for name, member in json.loads(session.metadata).items()
        if not isinstance(member, (list, dict))
    }
    found = {
        "agent": session.agent,
        "created_at": session.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "is_active": "true" if is_live else "false",
        **members,
    }
    return [(name, found[name], session.key.owner) for name in sorted(found)]


def session_columns(session: Conversation) -> Columns:
    titled_by = session.titled_by
    return {
        "title": session.title,
        "description": session.description,
        "metadata": session.metadata,
        "created_at": session.created_at,
        "last_activity": session.last_activity,
        "is_active": int(session.is_active),
        "deleted_at": session.deleted_at,
        "version": session.version,
        "last_seq": session.last_seq,
        "message_count": len(session.messages),
        "token_total": session.tokens(),
        "cut_version": session.cut_version,
        "changed_version": session.changed_version,
        "first_user_seq": titled_by and titled_by.seq,
        "first_user_text": titled_by and titled_by.message.title,
    }


def message_columns(stored: Any) -> tuple[Any, ...]:
    role, content, _, *others, _title, _size = structs.astuple(stored.message)
    return (stored.seq, role, content, stored.timestamp, *others)


def approval_columns(approval: Approval) -> tuple[Any, ...]:
    fields = structs.asdict(approval)
    del fields["session_id"]
    fields["encoded_arguments"] = approval.arguments
    fields["encoded_modified_arguments"] = approval.modified_arguments
    return tuple(fields.values())


def turn_columns(n: int, stored: StoredTurn) -> tuple[Any, ...]:
    turn = structs.asdict(stored.turn())
    turn["error"] = stored.error
    lease = (stored.lease.instance, stored.beat, int(stored.stop_requested))
    return (n, *turn.values(), *lease, *stored.position, int(stored.events_kept))


def found(tables: Tables) -> dict[SessionKey, Columns]:
    """What the tables hold, JSON texts decoded where the model holds values."""
    sessions = tables.sessions()
    for session in sessions.values():
        del session["session"]["id"]
        session["agent_switches"] = [
            (*row[:4], json_or_none(row[4]), json_or_none(row[5])) for row in session["agent_switches"]
        ]
        session["pending_approvals"] = [
            (row[0], *map(json_or_none, row[1:4]), *row[4:8], *map(json_or_none, row[8:]))
            for row in session["pending_approvals"]
        ]
        session["turn_events"] = [
            (*row[:3], json_or_none(f'"{row[3]}"' if row[2] == "text" else row[3]))
            for row in session["turn_events"]
        ]
    return sessions


def expected_changes(run: Run) -> dict[tuple[SessionKey | int, bool], Any]:
    """What followers and the cache have to be told: by session, its versions and what changed in it."""
    now = {session.number: session for session in run.model.sessions.values()}
    changed: dict[Any, Any] = {
        number: (version, None, {"deleted"}) for number, version in run.before.items() if number not in now
    }
    for number, session in now.items():
        before = run.before.get(number)
        what = {each for changed_number, each in run.model.log if changed_number == number}
        if before != session.version or SPEECH in what:
            changed[number] = (before, session.version, what - {SPEECH})
    return changed


def told(changes: Sequence[CommittedChange]) -> list[Any]:
    return [
        (change.base and change.base.version, change.head and change.head.version, set(change.changed))
        for change in changes
    ]


def in_order(changes: Any) -> list[Any]:
    # A set has its members in an order of its own in each process.
    return sorted(changes, key=lambda change: (repr(change[:2]), sorted(change[2])))


@pytest.mark.slow
@given(interleavings(clean_up, forget_old, *TURNS))
@thoroughly
def test_w3_a_batch_leaves_and_answers_what_its_requests_would_one_by_one(
    tables: Tables, steps: list[Step]
) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches(steps):
            assert outcomes(run.store(batch)) == run.expected
            assert found(tables) == state(run.model)


@given(interleavings(clean_up, erase, *TURNS))
@settings(thoroughly, max_examples=2 * EXAMPLES)
@pytest.mark.slow
def test_w3_what_is_left_to_be_erased_is_gone_and_is_erased_whole(
    hasty_tables: Tables, steps: list[Step]
) -> None:
    with hasty_tables.undone():
        run = Run(hasty_tables)
        for batch in run.batches(steps):
            planned = run.store(batch)
            assert outcomes(planned) == run.expected
            assert found(hasty_tables) == state(run.model)
            seen = [change for change in planned.changes if not is_about_rows(change)]
            assert in_order(told(seen)) == in_order(expected_changes(run).values())
            check_heads(run, planned.changes)
        run.erase_all()
        held = state(run.model)
        assert found(hasty_tables) == held
        assert hasty_tables.count_rows() == {
            "sessions": len(held),
            **{table: sum(len(session[table]) for session in held.values()) for table in COMPARED},
        }


def is_about_rows(change: CommittedChange) -> bool:
    """Whether it is of how the session is stored alone."""
    base, head = change.base, change.head
    return base is not None and head is not None and base.version == head.version and not change.pieces


@given(interleavings(clean_up, *TURNS))
@settings(thoroughly, max_examples=2 * EXAMPLES)
def test_w2_each_change_has_the_stored_head_and_messages(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches(steps):
            changes = run.store(batch).changes
            assert in_order(told(changes)) == in_order(expected_changes(run).values())
            check_heads(run, changes)


def check_heads(run: Run, changes: Sequence[CommittedChange]) -> None:
    gone_first = [change.head is None for change in changes]
    assert gone_first == sorted(gone_first, reverse=True), "an erased session's name may be taken again"
    for change in changes:
        if change.head is not None:
            request = Request(opening()[0].command, change.key, opening()[0].at)
            assert run.tables.known([request]).heads[change.key] == change.head
            last = change.base.last_seq if change.base else 0
            stored = [each for each in run.model.sessions[change.key].messages if each.seq > last]
            assert [tuple(row) for row in change.added] == [message_columns(each) for each in stored]


@given(interleavings(clean_up, *TURNS))
@settings(thoroughly, max_examples=EXAMPLES)
def test_w12_a_key_keeps_the_reply_of_its_first_request(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches(steps):
            run.store(batch)
        kept = {
            name: (mark, visible(decode_reply(reply))) for name, (mark, reply) in tables.replies().items()
        }
        assert kept == {name: (each.fingerprint, each.outcome) for name, each in run.model.replies.items()}


@given(interleavings(clean_up, *TURNS))
@settings(thoroughly, max_examples=2 * EXAMPLES)
def test_w4_a_request_raises_the_version_by_one_or_leaves_no_trace(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches([step._replace(ends=True) for step in steps]):
            planned = run.store(batch)
            for change in planned.changes:
                if change.head is not None:
                    raised = change.head.version - (change.base.version if change.base else 0)
                    assert raised == (0 if is_speech(change) else 1)
            written = {statement for statement, rows in planned.rows.items() if rows}
            # A sign of life of a turn is told to nobody.
            assert bool(planned.changes) == bool(written - {"insert_idempotency_key", "update_turn"})
            if planned.outcomes and isinstance(planned.outcomes[0], RequestError):
                assert not written, "W3: what fails leaves everything as it was"


def is_speech(change: CommittedChange) -> bool:
    return bool(change.pieces) and not change.changed and not change.added


@given(interleavings(clean_up, *TURNS))
@settings(thoroughly, max_examples=EXAMPLES)
def test_w4_a_sequence_number_is_never_given_twice(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        given_out: dict[int, list[int]] = {}
        for batch in run.batches(steps):
            for change in run.store(batch).changes:
                if change.head is not None:
                    given_out.setdefault(change.head.id, []).extend(row.seq for row in change.added)
        assert all(a < b for seqs in given_out.values() for a, b in pairwise(seqs))


@given(interleavings(clean_up, *TURNS))
@settings(thoroughly, max_examples=EXAMPLES)
def test_plan_is_pure(tables: Tables, steps: list[Step]) -> None:
    with tables.undone():
        run = Run(tables)
        for batch in run.batches(steps):
            known = tables.known(batch)
            untouched = copy.deepcopy(known)
            first, second = plan(known, batch), plan(known, batch)
            assert known == untouched
            assert comparable(first) == comparable(second)
            tables.apply(first.rows)


def comparable(planned: Plan) -> tuple[Any, ...]:
    answers = [repr(each) if isinstance(each, RequestError) else each for each in planned.outcomes]
    return planned.rows, answers, planned.changes


def test_a_batch_of_nothing_writes_nothing() -> None:
    planned = plan(PlanInput(), [])
    assert not any(planned.rows.values())
    assert (planned.outcomes, planned.changes) == ([], [])


def test_w4_messages_of_a_batch_are_numbered_in_order(tables: Tables) -> None:
    with tables.undone():
        run = Run(tables)
        request = opening()[0]
        more = structs.replace(request, command=AppendMessages(EXISTING, POOL[:2]))
        planned = run.commit([more, more, more])
        appended = [each for each in planned.outcomes if isinstance(each, Appended)]
        assert [receipt.seq for each in appended for receipt in each.messages] == [4, 5, 6, 7, 8, 9]


APPROVAL_COMMANDS = (
    CreateApproval(EXISTING, "call-1", '"look"', "{}"),
    DecideApproval(EXISTING, "call-1", "approve"),
    DecideApproval(EXISTING, "call-1", "reject", feedback='"no"'),
    DeleteApproval(EXISTING, "call-1"),
)


@pytest.mark.parametrize("stored", [(), APPROVAL_COMMANDS[:1], APPROVAL_COMMANDS[:2]], ids=len)
def test_w3_any_three_commands_about_an_approval_may_share_a_batch(
    tables: Tables, stored: tuple[Command, ...]
) -> None:
    for commands in product(APPROVAL_COMMANDS, repeat=3):
        with tables.undone():
            run = Run(tables)
            run.commit([Request(command, EXISTING, NOON) for command in stored])
            planned = run.commit([Request(command, EXISTING, NOON) for command in commands])
            assert outcomes(planned) == run.expected
            assert found(tables) == state(run.model)


def test_an_error_does_not_hold_on_to_its_batch() -> None:
    missing = Request(AppendMessages(SessionKey("", "s"), ()), SessionKey("", "s"), NOON)
    (error,) = plan(PlanInput(), [missing]).outcomes
    assert isinstance(error, RequestError)
    # Its traceback would: a circle around all that was asked, until the collector comes.
    assert error.__traceback__ is None
