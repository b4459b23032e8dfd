"""What the `Database` of the earlier service did: its own test script, and its published behaviour."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime.compat import database, database_async, operations
from runtime.compat.database import Database, IntegrityError, get_database, get_db
from runtime.compat.exceptions import NotSupported
from runtime.errors import ShuttingDown
from runtime.store.store import Store
from tests.migrations.catalogue import query

NOON = datetime(2026, 1, 7, 12, 0, 0, 123456)
CALL = {"id": "call_123", "type": "function", "function": {"name": "test_tool", "arguments": "{}"}}
HISTORY = [
    {"from": None, "to": "orchestrator", "reason": "Initial agent", "timestamp": "2026-01-07T12:00:00"},
    {"from": "orchestrator", "to": "coder", "reason": "Changes", "timestamp": "2026-01-07T12:01:00.5"},
]


def now() -> datetime:
    """As its code took the time: in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def talk(count: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"Message {n}"} for n in range(count)]


def save_context(db: Database, session_id: str, **changed: Any) -> None:
    given: dict[str, Any] = {
        "current_agent": "coder",
        "agent_history": HISTORY,
        "metadata": {"project": "test_project"},
        "created_at": NOON,
        "last_switch_at": NOON,
        "switch_count": 1,
    }
    db.save_agent_context(session_id=session_id, **{**given, **changed})


def title_of(db: Database, session_id: str) -> str | None:
    return db.thread.run(lambda store: store.get_session(session_id)).title


# The script `test_database_improvements.py`


def test_a_session_is_saved_loaded_and_listed(db: Database):
    messages = [{"role": "system", "content": "You are a helpful assistant"}, *talk(2)]
    assert db.save_session("test_session_001", messages, NOON) is None
    loaded = db.load_session("test_session_001")
    assert loaded is not None
    assert loaded.keys() == {"session_id", "messages", "last_activity", "created_at"}
    assert (loaded["session_id"], loaded["messages"]) == ("test_session_001", messages)
    assert loaded["last_activity"] == NOON
    assert abs(loaded["created_at"] - now()) < timedelta(minutes=5)
    assert db.list_all_sessions() == ["test_session_001"]


def test_messages_come_in_pages_oldest_first(db: Database):
    db.save_session("s", talk(100), NOON)
    pages = [db.get_messages_paginated("s", page=page, page_size=20) for page in range(1, 7)]
    assert [message for page in pages for message in page] == talk(100)
    assert [len(page) for page in pages] == [20, 20, 20, 20, 20, 0]
    assert db.get_messages_paginated("s") == talk(100)[:50]
    assert db.get_messages_paginated("s", 1, 5000) == talk(100)
    assert db.get_messages_paginated("s", 0, 2) == talk(2)
    assert db.get_messages_paginated("s", 1, 0) == []
    assert db.get_messages_paginated("nobody") == []


def test_statistics_of_a_session(db: Database):
    db.save_session("s", talk(3), NOON)
    stats = db.get_session_stats("s")
    assert stats is not None
    assert (stats["session_id"], stats["message_count"], stats["total_tokens"]) == ("s", 3, 0)
    assert stats["last_activity"] == NOON
    assert abs(stats["last_message_at"] - now()) < timedelta(minutes=5)
    assert stats["created_at"].tzinfo is None
    db.save_session("empty", [], NOON)
    assert (db.get_session_stats("empty") or {})["last_message_at"] is None
    assert db.get_session_stats("nobody") is None


def test_a_context_of_two_entries_and_a_count_of_one(db: Database):
    db.save_session("s", talk(2), NOON)
    assert db.load_agent_context("s") is None
    save_context(db, "s")
    assert db.load_agent_context("s") == {
        "session_id": "s",
        "current_agent": "coder",
        "agent_history": [
            HISTORY[0],
            {**HISTORY[1], "timestamp": "2026-01-07T12:01:00.500000"},
        ],
        "metadata": {"project": "test_project"},
        "created_at": NOON,
        "last_switch_at": datetime(2026, 1, 7, 12, 1, 0, 500_000),
        "switch_count": 1,
    }
    switches = db.get_agent_switch_history("s")
    assert [(each["from_agent"], each["to_agent"]) for each in switches] == [
        ("orchestrator", "coder"),
        (None, "orchestrator"),
    ]
    assert switches[0].keys() == {"id", "from_agent", "to_agent", "switched_at", "reason", "metadata"}
    assert switches[1]["switched_at"] == datetime(2026, 1, 7, 12)
    assert db.get_agent_switch_history("s", limit=1) == switches[:1]
    assert db.get_agent_switch_history("nobody") == []


def test_a_soft_deleted_session_is_listed_with_the_deleted_ones_only(db: Database):
    db.save_session("s", talk(1), NOON)
    assert db.delete_session("s", soft=True) is True
    assert db.list_all_sessions(include_deleted=False) == []
    assert db.list_all_sessions(include_deleted=True) == ["s"]
    assert db.load_session("s") is None
    assert db.get_session_stats("s") is None
    assert db.get_messages_paginated("s") == []
    assert db.delete_session("s") is True, "soft again"
    assert db.delete_session("nobody") is False


def test_sessions_are_cleaned_up_by_the_time_that_was_given(db: Database):
    db.save_session("old", talk(1), now() - timedelta(hours=25))
    db.save_session("new", talk(1), now() - timedelta(hours=23))
    # Neither is activity.
    db.update_session_title("old", "Old")
    save_context(db, "old")
    db.save_pending_approval("old", "c", "write_file", {})
    assert db.cleanup_old_sessions(max_age_hours=24) == 1
    assert db.list_all_sessions() == ["new"]
    assert db.cleanup_old_sessions(24) == 0
    assert db.hard_delete_old_sessions(days_old=30) == 0
    assert sorted(db.list_all_sessions(include_deleted=True)) == ["new", "old"]
    assert db.hard_delete_old_sessions(days_old=0) == 1
    assert db.list_all_sessions(include_deleted=True) == ["new"]
    assert [each["call_id"] for each in db.get_pending_approvals("old")] == ["c"]


def test_tool_calls_and_their_results_come_back(db: Database):
    messages = [
        {"role": "user", "content": "Test"},
        {"role": "assistant", "content": "Response", "tool_calls": [CALL]},
        {"role": "tool", "content": "Result", "tool_call_id": "call_123", "name": "test_tool"},
    ]
    db.save_session("s", messages, NOON)
    assert (db.load_session("s") or {})["messages"] == messages


# Sessions


def test_saving_again_replaces_the_whole_history_and_the_time(db: Database):
    db.save_session("s", talk(5), NOON)
    first = db.load_session("s") or {}
    shorter = [talk(5)[0], {"role": "user", "content": "Another"}]
    db.save_session("s", shorter, NOON - timedelta(days=1))
    loaded = db.load_session("s") or {}
    assert loaded["messages"] == shorter
    assert loaded["last_activity"] == NOON - timedelta(days=1), "earlier, as it was given"
    assert loaded["created_at"] == first["created_at"]
    db.save_session("s", [], NOON)
    assert (db.load_session("s") or {})["messages"] == []


def test_a_message_is_kept_as_far_as_it_is_known(db: Database):
    odd = [
        {"content": "no role"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "unknown": 1},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "x", "name": "", "tool_calls": [], "metadata": {"a": 1}},
    ]
    db.save_session("s", odd, NOON)
    assert (db.load_session("s") or {})["messages"] == [
        {"role": "user", "content": "no role"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "x"},
    ]
    stored = db.thread.run(lambda store: store.list_messages("s")).messages
    assert stored[3]["metadata"] == {"a": 1}
    assert "unknown" not in stored[1]


@pytest.mark.parametrize("session_id", ["new", "kept"])
def test_a_role_that_is_none_is_an_integrity_error_and_changes_nothing(db: Database, session_id: str):
    db.save_session("kept", talk(2), NOON)
    with pytest.raises(IntegrityError, match="'robot'"):
        db.save_session(session_id, [*talk(1), {"role": "robot", "content": "x"}], NOON)
    assert db.list_all_sessions() == ["kept"]
    assert (db.load_session("kept") or {})["messages"] == talk(2)


def test_a_soft_deleted_session_cannot_be_saved(db: Database):
    db.save_session("s", talk(1), NOON)
    db.delete_session("s")
    with pytest.raises(IntegrityError, match="deleted"):
        db.save_session("s", talk(2), NOON)
    assert db.load_session("s") is None


@pytest.mark.parametrize("soft_first", [False, True])
def test_an_erased_session_leaves_its_approvals_alone(db: Database, soft_first: bool):
    db.save_session("s", talk(2), NOON)
    save_context(db, "s")
    db.save_pending_approval("s", "waits", "write_file", {"path": "a"}, "why")
    db.save_pending_approval("s", "decided", "write_file", {})
    db.update_approval_status("decided", "approved")
    before = db.get_pending_approvals("s")
    if soft_first:
        db.delete_session("s")
    assert db.delete_session("s", soft=False) is True
    assert db.list_all_sessions(include_deleted=True) == []
    assert db.get_pending_approvals("s") == before
    assert db.delete_session("s", soft=False) is False
    db.save_session("s", talk(1), NOON)
    assert db.load_agent_context("s") is None
    assert db.get_pending_approvals("s") == before
    assert db.delete_pending_approval("decided") is True


def test_the_title_is_the_first_500_characters_of_the_first_question_until_another_is_set(db: Database):
    db.save_session("s", [{"role": "system", "content": "x"}], NOON)
    assert title_of(db, "s") is None
    db.save_session("s", [{"role": "user", "content": "ü\n" + "q" * 600}, *talk(2)], NOON)
    assert title_of(db, "s") == "ü\n" + "q" * 498
    db.save_session("s", talk(2), NOON)
    assert title_of(db, "s") == "ü\n" + "q" * 498
    assert db.update_session_title("s", "t" * 501) is True
    assert title_of(db, "s") == "t" * 500
    assert db.update_session_description("s", "About it") is True
    assert db.thread.run(lambda store: store.get_session("s")).description == "About it"
    assert (db.load_session("s") or {})["last_activity"] == NOON
    assert db.update_session_title("nobody", "t") is False
    assert db.update_session_description("nobody", "d") is False


def test_saves_of_a_session_take_effect_in_their_order_whatever_their_size(db: Database):
    def begin(messages: list[dict[str, Any]]) -> Future[None]:
        return db.thread.submit(lambda store: operations.save_session(store, "s", messages, NOON))

    for saving in [begin(talk(3000)), begin(talk(1))]:
        saving.result()
    assert (db.load_session("s") or {})["messages"] == talk(1)


def test_a_follower_of_the_server_sees_what_is_saved(db: Database):
    async def follow(store: Store) -> list[Any]:
        seen = []
        async with store.follow("s", after=2) as follower, asyncio.timeout(60):
            for messages in (talk(3), talk(3), talk(2)):
                await store.saved.save_session("s", messages, datetime.now(UTC))
                seen.append(await follower.events(60))
        return seen

    db.save_session("s", talk(2), NOON)
    (added, same, cut) = db.thread.run(follow)
    assert [event.seq for event in added] == [3]
    assert [event.what for event in same] == [["session"]], "the time of its activity alone"
    assert [event.what for event in cut] == [["messages"]]


# Contexts


def test_saving_a_context_again_replaces_it_but_for_the_time_of_its_making(db: Database):
    db.save_session("s", talk(1), NOON)
    save_context(db, "s")
    save_context(
        db,
        "s",
        current_agent="ask",
        agent_history=[{"from": "coder", "metadata": {"deep": [1]}}],
        metadata={},
        created_at=NOON + timedelta(days=1),
        switch_count=7,
    )
    loaded = db.load_agent_context("s") or {}
    assert (loaded["current_agent"], loaded["switch_count"], loaded["metadata"]) == ("ask", 7, {})
    assert loaded["created_at"] == NOON
    (entry,) = loaded["agent_history"]
    assert (entry["from"], entry["to"], entry["reason"]) == ("coder", "ask", None)
    assert abs(datetime.fromisoformat(entry["timestamp"]) - now()) < timedelta(minutes=5)
    assert loaded["last_switch_at"] == datetime.fromisoformat(entry["timestamp"])
    assert db.get_agent_switch_history("s")[0]["metadata"] == {"deep": [1]}
    save_context(db, "s", agent_history=[], switch_count=0)
    assert (db.load_agent_context("s") or {})["last_switch_at"] is None


@pytest.mark.parametrize(("entries", "count"), [(2, 1), (2, 2), (3, 0), (0, 5)])
async def test_the_store_hands_a_saved_session_over_whatever_its_count(
    db: Database, entries: int, count: int
):
    db.save_session("s", talk(1), NOON)
    history = [{"from": "ask", "to": "debug", "timestamp": NOON.isoformat()}] * entries
    save_context(db, "s", agent_history=history, switch_count=count)

    async def switch(store: Store) -> list[str]:
        await store.switch_agent("s", "architect")
        return [each.to_agent for each in await store.list_agent_history("s")]

    assert db.thread.run(switch) == ["debug"] * entries + ["architect"]
    assert (db.load_agent_context("s") or {})["switch_count"] == count + 1


def test_a_context_of_an_unknown_session_is_logged_and_not_saved(
    db: Database, caplog: pytest.LogCaptureFixture
):
    save_context(db, "nobody")
    assert "'nobody' does not exist" in caplog.text
    assert db.list_all_contexts() == db.list_all_sessions() == []
    db.save_session("s", talk(1), NOON)
    db.delete_session("s")
    save_context(db, "s")
    assert "'s' is deleted" in caplog.text


def test_metadata_that_is_no_json_is_a_type_error(db: Database):
    db.save_session("s", talk(1), NOON)
    with pytest.raises(TypeError):
        save_context(db, "s", metadata={"asked_at": NOON})
    assert db.load_agent_context("s") is None


def test_contexts_are_deleted_and_listed(db: Database):
    for session_id in ("with", "without", "deleted"):
        db.save_session(session_id, talk(1), NOON)
    save_context(db, "with")
    save_context(db, "deleted")
    db.delete_session("deleted")
    assert db.list_all_contexts() == ["with"]
    assert db.delete_agent_context("with") is True
    assert db.load_agent_context("with") is None
    assert db.get_agent_switch_history("with") == []
    assert db.delete_agent_context("with") is False
    assert db.delete_agent_context("without") is False
    assert db.delete_agent_context("nobody") is False
    assert db.list_all_contexts() == []
    save_context(db, "with", created_at=NOON + timedelta(days=2))
    assert (db.load_agent_context("with") or {})["created_at"] == NOON + timedelta(days=2)


def test_a_session_of_the_server_has_a_context_and_one_that_was_only_saved_gets_it_when_it_changes(
    db: Database,
):
    async def use_server(store: Store) -> None:
        await store.create_session("made")
        await store.switch_agent("saved", "coder", reason="asked")

    db.save_session("saved", talk(1), NOON)
    db.thread.run(use_server)
    assert sorted(db.list_all_contexts()) == ["made", "saved"]
    assert (db.load_agent_context("saved") or {})["current_agent"] == "coder"
    assert (db.load_agent_context("made") or {})["agent_history"] == []


# Approvals


def test_approvals_are_found_by_their_call_alone(db: Database):
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "call_1", "write_file", {"path": "a"}, "because")
    db.save_pending_approval("s", "call_2", "execute_command", {"command": "ls"})
    (first, second) = db.get_pending_approvals("s")
    assert first.keys() == {"call_id", "tool_name", "arguments", "reason", "created_at"}
    assert (first["call_id"], first["tool_name"]) == ("call_1", "write_file")
    assert (first["arguments"], first["reason"]) == ({"path": "a"}, "because")
    assert abs(first["created_at"] - now()) < timedelta(minutes=5)
    assert (second["call_id"], second["reason"]) == ("call_2", None)
    assert db.update_approval_status("call_1", "approved") is True
    assert db.get_pending_approvals("s") == [second]
    assert db.delete_pending_approval("call_2") is True
    assert db.delete_pending_approval("call_2") is False
    assert db.update_approval_status("call_2", "rejected") is False
    assert db.get_pending_approvals("s") == []


def test_a_call_that_is_known_in_any_session_stays_as_it_is(db: Database):
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {"first": True})
    db.save_pending_approval("other", "c", "delete_file", {})
    db.save_pending_approval("s", "c", "delete_file", {})
    assert db.get_pending_approvals("other") == []
    assert [each["arguments"] for each in db.get_pending_approvals("s")] == [{"first": True}]
    db.update_approval_status("c", "rejected")
    db.save_pending_approval("s", "c", "delete_file", {})
    assert db.get_pending_approvals("s") == [], "a decided one too"


def test_the_session_of_an_approval_need_not_exist_and_is_not_made(db: Database):
    db.save_pending_approval("later", "c", "write_file", {})
    assert db.list_all_sessions(include_deleted=True) == []
    assert db.load_session("later") is None
    assert db.delete_session("later") is False
    assert db.update_approval_status("c", "approved") is True
    db.save_pending_approval("later", "d", "write_file", {})
    db.save_session("later", talk(1), NOON)
    db.save_pending_approval("later", "e", "write_file", {})
    assert [each["call_id"] for each in db.get_pending_approvals("later")] == ["d", "e"]
    assert db.delete_pending_approval("d") is True
    assert db.list_all_sessions() == ["later"]


@pytest.mark.parametrize(
    ("given", "stored"), [("approved", "approved"), ("rejected", "rejected"), ("cancelled", "rejected")]
)
def test_a_status_is_stored_also_over_another_one(db: Database, given: str, stored: str):
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {})
    db.update_approval_status("c", "rejected" if given == "approved" else "approved")
    assert db.update_approval_status("c", given) is True
    approval = db.thread.run(lambda store: store.find_approval("s", "c"))
    assert approval is not None
    assert approval.status == stored
    assert approval.decided_at is not None
    with pytest.raises(ValueError, match="'lost' is none of pending, approved, rejected, cancelled"):
        db.update_approval_status("c", "lost")


def test_approvals_of_a_soft_deleted_session_are_there_still(db: Database):
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {})
    db.delete_session("s")
    assert [each["call_id"] for each in db.get_pending_approvals("s")] == ["c"]
    assert db.update_approval_status("c", "approved") is True
    assert db.get_pending_approvals("s") == []


# The object itself


@pytest.mark.parametrize("name", ["engine", "SessionLocal", "get_session", "session_scope"])
def test_what_needs_sqlalchemy_says_what_to_use_instead(db: Database, name: str):
    with pytest.raises(NotSupported, match=rf"^{name} needs SQLAlchemy, which is not used here; use "):
        getattr(db, name)()


@pytest.mark.parametrize("module", [database, database_async])
def test_what_was_sqlalchemy_cannot_be_imported_without_being_told_what_to_use(module: ModuleType):
    for name in ("engine", "SessionLocal", "Base", "async_session_maker"):
        with pytest.raises(NotSupported, match=rf"^{name} needs SQLAlchemy, which is not used here; use "):
            getattr(module, name)
    with pytest.raises(AttributeError):
        _ = module.nothing


def test_times_with_a_zone_are_the_same_times(db: Database):
    east = datetime(2026, 1, 7, 15, tzinfo=UTC).astimezone(tz=None)
    db.save_session("s", talk(1), east)
    assert (db.load_session("s") or {})["last_activity"] == datetime(2026, 1, 7, 15)


def test_databases_of_the_same_url_share_one_store(db: Database):
    db.save_session("s", talk(1), NOON)
    again = Database(db.db_url)
    assert again.list_all_sessions() == ["s"]
    again.close()
    with pytest.raises(ShuttingDown, match="a new Database opens it again"):
        db.list_all_sessions()
    assert Database(db.db_url).list_all_sessions() == ["s"]


def test_the_shared_database_is_the_file_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    get_database().save_session("s", talk(1), NOON)
    assert get_db() is get_database()
    assert query(f"sqlite:///{tmp_path}/data/agent_runtime.db", "SELECT session_id FROM sessions") == [("s",)]


def test_threads_hammer_one_database(db: Database):
    threads, rounds = 8, 15
    started = threading.Barrier(threads)

    def work(number: int) -> None:
        started.wait()
        for count in range(1, rounds + 1):
            db.save_session(f"own {number}", talk(count), NOON)
            db.save_session("shared", [{"role": "user", "content": str(number)}] * count, NOON)
            db.save_pending_approval(f"nowhere {number}", f"call {count}", "write_file", {})
            save_context(db, f"own {number}", switch_count=count)
            assert (db.load_session(f"own {number}") or {})["messages"] == talk(count)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    assert sorted(db.list_all_sessions()) == [*(f"own {n}" for n in range(threads)), "shared"]
    assert sorted(db.list_all_contexts()) == [f"own {n}" for n in range(threads)]
    shared = (db.load_session("shared") or {})["messages"]
    assert len({message["content"] for message in shared}) == 1, "one save is whole"
    waiting = [each for n in range(threads) for each in db.get_pending_approvals(f"nowhere {n}")]
    calls = sorted(each["call_id"] for each in waiting)
    assert calls == sorted(f"call {count}" for count in range(1, rounds + 1)), "each in one session"


async def test_it_works_where_an_event_loop_runs(db: Database):
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {})
    assert (db.load_session("s") or {})["messages"] == talk(1)
    assert len(db.get_pending_approvals("s")) == 1
