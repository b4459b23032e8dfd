"""`plan` of imports: what is given is stored as it is given, and a repetition stores nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from runtime.errors import InvalidInput, SessionNotFound
from runtime.store.messages import NewMessage, new_message
from runtime.store.records import ApprovalRow, ImportMark, SessionKey, SwitchRow
from runtime.store.write.commands import (
    Command,
    CreateSession,
    DeleteSession,
    ImportMessages,
    ImportSession,
    Request,
    RestoreSession,
    SwitchAgent,
)
from runtime.store.write.outcomes import Imported, SessionWritten
from runtime.store.write.plan import Plan, plan
from tests.support.memory_tables import Tables

KEY = SessionKey("ann", "trip")
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
THEN = datetime(2026, 1, 5, 9, 0, 0, 123456, tzinfo=UTC)
SOURCE = "sqlite:////old.db"


def later(minutes: int) -> datetime:
    return THEN + timedelta(minutes=minutes)


def message(text: str, minutes: int = 1) -> NewMessage:
    return new_message({"role": "user", "content": text, "timestamp": later(minutes)})


def session(**fields: Any) -> ImportSession:
    given: dict[str, Any] = {
        "created_at": THEN,
        "last_activity": later(9),
        "context_created_at": later(1),
        "context_updated_at": later(8),
        **fields,
    }
    return ImportSession(KEY, SOURCE, **given)


WHOLE = session(
    title='"A trip"',
    description='"Two bags"',
    metadata='{"a":1}',
    is_active=False,
    agent="coder",
    switch_count=1,
    context_metadata='{"b":2}',
    switches=(
        SwitchRow(1, "", "orchestrator", later(1), '"first"', "{}"),
        SwitchRow(2, "orchestrator", "coder", later(2), None, '{"c":3}'),
    ),
    approvals=(
        ApprovalRow(
            "call_1",
            '"write"',
            '{"path":"a"}',
            '"asks"',
            "rejected",
            later(3),
            None,
            later(4),
            None,
            '"no"',
        ),
    ),
    messages=(message("one"), message("two", 2)),
)


@pytest.fixture
def tables() -> Iterator[Tables]:
    tables = Tables()
    yield tables
    tables.close()


def store(tables: Tables, *commands: Command) -> Plan:
    """Plan and store commands as one batch."""
    requests = [Request(command, command.key, NOW) for command in commands]
    planned = plan(tables.known(requests), requests)
    tables.apply(planned.rows)
    return planned


def outcome(tables: Tables, command: Command) -> Imported:
    (found,) = store(tables, command).outcomes
    assert isinstance(found, Imported)
    return found


def contents(tables: Tables) -> list[str]:
    return [row[2] for row in tables.sessions()[KEY]["messages"]]


def test_a_session_is_stored_as_it_was(tables: Tables) -> None:
    assert outcome(tables, WHOLE) == Imported(
        session_id="trip", version=1, mark=ImportMark(SOURCE, 1), created=True
    )
    stored = tables.sessions()[KEY]
    row = stored["session"]
    assert (row["title"], row["description"], row["metadata"]) == ('"A trip"', '"Two bags"', '{"a":1}')
    assert (row["created_at"], row["last_activity"], row["deleted_at"]) == (THEN, later(9), None)
    assert (row["is_active"], row["message_count"], row["last_seq"], row["version"]) == (0, 2, 2, 1)
    assert row["first_user_text"] == '"one"'
    assert [each[3] for each in stored["messages"]] == [later(1), later(2)]
    assert stored["agent_contexts"] == [("coder", later(1), later(8), 1, '{"b":2}')]
    assert stored["agent_switches"] == [tuple(switch) for switch in WHOLE.switches]
    assert stored["pending_approvals"] == [structs.astuple(WHOLE.approvals[0])]


@pytest.mark.parametrize("together", [True, False])
def test_a_repetition_stores_nothing(tables: Tables, together: bool) -> None:
    if together:
        first, second = store(tables, WHOLE, WHOLE).outcomes
        assert isinstance(first, Imported)
        assert isinstance(second, Imported)
        assert (first.created, second.created) == (True, False)
    else:
        store(tables, WHOLE)
        assert not any(store(tables, WHOLE).rows.values())
    assert contents(tables) == ['"one"', '"two"']


def test_a_session_that_was_made_here_is_kept(tables: Tables) -> None:
    store(tables, CreateSession(KEY, messages=(message("ours"),)))
    assert outcome(tables, WHOLE).mark is None
    assert outcome(tables, ImportMessages(KEY, SOURCE, 1, (message("theirs"),), True)).mark is None
    assert contents(tables) == ['"ours"']


def test_a_long_session_comes_in_portions(tables: Tables) -> None:
    begun = structs.replace(WHOLE, is_whole=False)
    assert outcome(tables, begun).mark == ImportMark(SOURCE, None)
    middle = ImportMessages(KEY, SOURCE, 2, (message("three", 3), message("four", 4)), False)
    last = ImportMessages(KEY, SOURCE, 4, (message("five", 5),), True)
    assert outcome(tables, middle).mark == ImportMark(SOURCE, None)
    assert outcome(tables, last) == Imported(
        session_id="trip", version=3, mark=ImportMark(SOURCE, 3), was_continued=True
    )
    assert contents(tables) == ['"one"', '"two"', '"three"', '"four"', '"five"']
    assert tables.sessions()[KEY]["session"]["last_activity"] == later(9)
    for command in (begun, middle, last):
        assert not any(store(tables, command).rows.values())


def test_portions_cut_otherwise_double_nothing(tables: Tables) -> None:
    store(tables, structs.replace(WHOLE, is_whole=False))
    store(tables, ImportMessages(KEY, SOURCE, 1, (message("two", 2), message("three", 3)), True))
    assert contents(tables) == ['"one"', '"two"', '"three"']


def test_a_session_stored_in_part_is_completed_by_its_command(
    tables: Tables,
) -> None:
    store(tables, structs.replace(WHOLE, messages=WHOLE.messages[:1], is_whole=False))
    assert outcome(tables, WHOLE) == Imported(
        session_id="trip", version=2, mark=ImportMark(SOURCE, 2), was_continued=True
    )
    assert contents(tables) == ['"one"', '"two"']


def test_a_part_from_another_source_is_not_mixed_with_this_one(tables: Tables) -> None:
    other = "sqlite:////other.db"
    store(tables, structs.replace(WHOLE, source=other, is_whole=False))
    for command in (WHOLE, ImportMessages(KEY, SOURCE, 2, (message("three"),), True)):
        assert outcome(tables, command).mark == ImportMark(other, None)
    assert contents(tables) == ['"one"', '"two"']


def test_an_empty_last_portion_makes_a_session_whole(tables: Tables) -> None:
    store(tables, structs.replace(WHOLE, is_whole=False))
    assert outcome(tables, ImportMessages(KEY, SOURCE, 2, (), True)).mark == ImportMark(SOURCE, 2)


def test_a_gap_is_refused(tables: Tables) -> None:
    store(tables, structs.replace(WHOLE, is_whole=False))
    (error,) = store(tables, ImportMessages(KEY, SOURCE, 3, (message("four"),), True)).outcomes
    assert isinstance(error, InvalidInput)
    (error,) = store(tables, ImportMessages(SessionKey("", "unknown"), SOURCE, 0, (), True)).outcomes
    assert isinstance(error, SessionNotFound)


def test_a_deleted_session_is_imported_to_its_end_and_can_be_restored(tables: Tables) -> None:
    store(tables, session(deleted_at=later(20), messages=(message("one"),), is_whole=False))
    store(tables, ImportMessages(KEY, SOURCE, 1, (message("two"),), True))
    row = tables.sessions()[KEY]["session"]
    assert (row["deleted_at"], row["last_activity"]) == (later(20), later(9))
    (restored,) = store(tables, RestoreSession(KEY)).outcomes
    assert isinstance(restored, SessionWritten)
    assert restored.session.is_active
    assert contents(tables) == ['"one"', '"two"']


def test_a_handover_follows_the_first_agent_which_is_not_counted(tables: Tables) -> None:
    store(tables, WHOLE)
    store(tables, SwitchAgent(KEY, "debug"), SwitchAgent(KEY, "ask"))
    store(tables, SwitchAgent(KEY, "coder"))
    stored = tables.sessions()[KEY]
    numbered = [(n, origin) for n, origin, *_ in stored["agent_switches"]]
    assert numbered == [(1, ""), (2, "orchestrator"), (3, "coder"), (4, "debug"), (5, "ask")]
    assert stored["agent_contexts"][0][3] == 4


def test_what_is_erased_may_be_imported_again(tables: Tables) -> None:
    store(tables, WHOLE)
    store(tables, DeleteSession(KEY, hard=True))
    assert outcome(tables, WHOLE).created
