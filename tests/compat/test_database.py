"""The `Database` of the earlier service: its own test script, and what holds of the object itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from runtime.compat import database, database_async
from runtime.compat.database import Database, get_database, get_db
from runtime.compat.exceptions import NotSupported
from runtime.errors import SettingsError, ShuttingDown
from tests.compat.saving import CALL, HISTORY, NOON, now, save_context, talk
from tests.migrations.catalogue import query

# The script `test_database_improvements.py`


def test_a_session_is_saved_loaded_and_listed(db: Database) -> None:
    messages = [{"role": "system", "content": "You are a helpful assistant"}, *talk(2)]
    assert db.save_session("test_session_001", messages, NOON) is None
    loaded = db.load_session("test_session_001")
    assert loaded is not None
    assert loaded.keys() == {"session_id", "messages", "last_activity", "created_at"}
    assert (loaded["session_id"], loaded["messages"]) == ("test_session_001", messages)
    assert loaded["last_activity"] == NOON
    assert abs(loaded["created_at"] - now()) < timedelta(minutes=5)
    assert db.list_all_sessions() == ["test_session_001"]


def test_messages_come_in_pages_oldest_first(db: Database) -> None:
    db.save_session("s", talk(100), NOON)
    pages = [db.get_messages_paginated("s", page=page, page_size=20) for page in range(1, 7)]
    assert [message for page in pages for message in page] == talk(100)
    assert [len(page) for page in pages] == [20, 20, 20, 20, 20, 0]
    assert db.get_messages_paginated("s") == talk(100)[:50]
    assert db.get_messages_paginated("s", 1, 5000) == talk(100)
    assert db.get_messages_paginated("s", 0, 2) == talk(2)
    assert db.get_messages_paginated("s", 1, 0) == []
    assert db.get_messages_paginated("nobody") == []


def test_statistics_of_a_session(db: Database) -> None:
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


def test_a_context_of_two_entries_and_a_count_of_one(db: Database) -> None:
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


def test_a_soft_deleted_session_is_listed_with_the_deleted_ones_only(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    assert db.delete_session("s", soft=True) is True
    assert db.list_all_sessions(include_deleted=False) == []
    assert db.list_all_sessions(include_deleted=True) == ["s"]
    assert db.load_session("s") is None
    assert db.get_session_stats("s") is None
    assert db.get_messages_paginated("s") == []
    assert db.delete_session("s") is True, "soft again"
    assert db.delete_session("nobody") is False


def test_sessions_are_cleaned_up_by_the_time_that_was_given(db: Database) -> None:
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


def test_tool_calls_and_their_results_come_back(db: Database) -> None:
    messages = [
        {"role": "user", "content": "Test"},
        {"role": "assistant", "content": "Response", "tool_calls": [CALL]},
        {"role": "tool", "content": "Result", "tool_call_id": "call_123", "name": "test_tool"},
    ]
    db.save_session("s", messages, NOON)
    assert (db.load_session("s") or {})["messages"] == messages


# The object itself


@pytest.mark.parametrize("name", ["engine", "SessionLocal", "get_session", "session_scope"])
def test_what_needs_sqlalchemy_says_what_to_use_instead(db: Database, name: str) -> None:
    with pytest.raises(NotSupported, match=rf"^{name} needs SQLAlchemy, which is not used here; use "):
        getattr(db, name)()


@pytest.mark.parametrize("module", [database, database_async])
def test_names_of_sqlalchemy_raise_an_error_that_helps(module: ModuleType) -> None:
    for name in ("engine", "SessionLocal", "Base", "async_session_maker"):
        with pytest.raises(NotSupported, match=rf"^{name} needs SQLAlchemy, which is not used here; use "):
            getattr(module, name)
    with pytest.raises(AttributeError):
        _ = module.nothing


def test_times_with_a_zone_are_the_same_times(db: Database) -> None:
    east = datetime(2026, 1, 7, 15, tzinfo=UTC).astimezone(tz=None)
    db.save_session("s", talk(1), east)
    assert (db.load_session("s") or {})["last_activity"] == datetime(2026, 1, 7, 15)


def test_databases_of_the_same_url_share_one_store(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    again = Database(db.db_url)
    assert again.list_all_sessions() == ["s"]
    again.close()
    with pytest.raises(ShuttingDown, match="a new Database opens it again"):
        db.list_all_sessions()
    assert Database(db.db_url).list_all_sessions() == ["s"]


def test_the_shared_database_is_the_file_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    get_database().save_session("s", talk(1), NOON)
    assert get_db() is get_database()
    assert query(f"sqlite:///{tmp_path}/data/agent_runtime.db", "SELECT session_id FROM sessions") == [("s",)]


def test_threads_hammer_one_database(db: Database) -> None:
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


def test_what_has_begun_is_finished_when_another_thread_closes(db: Database) -> None:
    threads = 6
    begun = threading.Barrier(threads + 1)
    saved: set[str] = set()

    def work(number: int) -> None:
        for count in range(10_000):
            db.save_session(f"{number} {count}", talk(2), NOON)
            saved.add(f"{number} {count}")
            if count == 5:
                begun.wait()

    with ThreadPoolExecutor(threads) as pool:
        works = [pool.submit(work, number) for number in range(threads)]
        begun.wait()
        db.close()
    for each in works:
        with pytest.raises(ShuttingDown):
            each.result()
    assert saved <= set(Database(db.db_url).list_all_sessions())


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "agents.db", Path("agents.db")])
def test_what_is_no_url_is_refused_with_what_would_be_right(url: str) -> None:
    with pytest.raises(SettingsError, match="sqlite:///"):
        Database(url)


async def test_it_works_where_an_event_loop_runs(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {})
    assert (db.load_session("s") or {})["messages"] == talk(1)
    assert len(db.get_pending_approvals("s")) == 1
