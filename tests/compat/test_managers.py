"""The managers of the earlier service, which keep sessions and agent contexts in memory."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runtime.compat import agent_context_async, database_async, session_manager_async
from runtime.compat.agent_context import (
    AgentContext,
    AgentContextManager,
    AgentType,
    get_agent_context_manager,
)
from runtime.compat.agent_context_async import AsyncAgentContextManager, init_agent_context_manager
from runtime.compat.database import Database, IntegrityError
from runtime.compat.database_async import close_db, get_database_service, get_db, init_db
from runtime.compat.session_manager import (
    Message,
    SessionManager,
    SessionState,
    get_session_manager,
    session_manager,
)
from runtime.compat.session_manager_async import (
    AsyncSessionManager,
    get_async_session_manager,
    init_session_manager,
)

NOON = datetime(2026, 1, 7, 12)
TOOL = {"role": "tool", "content": "result", "tool_call_id": "call_123", "name": "list_files"}


@pytest.fixture
def sessions(db: Database) -> SessionManager:
    return SessionManager(db)


@pytest.fixture
def contexts(db: Database) -> AgentContextManager:
    return AgentContextManager(db)


def reopened(db: Database) -> Database:
    """The same database, as the next process finds it."""
    db.close()
    return Database(db.db_url)


# Sessions


def test_a_new_manager_is_empty(sessions: SessionManager) -> None:
    assert sessions._sessions == {}
    assert sessions._lock is not None
    assert sessions.all_sessions() == []
    assert sessions.exists("nobody") is False
    assert sessions.get("nobody") is None
    assert sessions.get_history("nobody") == []
    assert sessions.delete("nobody") is None


def test_a_session_is_made_once(sessions: SessionManager) -> None:
    state = sessions.create("s", "You are helpful")
    assert isinstance(state, SessionState)
    assert (state.session_id, state.messages) == ("s", [Message("system", "You are helpful")])
    assert sessions.exists("s")
    assert sessions.get("s") is state
    assert sessions.get_or_create("s") is state
    with pytest.raises(ValueError, match=r"^Session s already exists$"):
        sessions.create("s")
    assert sessions.get_or_create("t").messages == []
    assert {each.session_id for each in sessions.all_sessions()} == {"s", "t"}


def test_messages_are_added_and_stored_at_once(sessions: SessionManager, db: Database) -> None:
    state = sessions.create("s", "You are helpful")
    before = state.last_activity
    sessions.append_message("s", "user", "Hello")
    sessions.append_message("s", "assistant", "Hi there", name="greeter")
    sessions.append_tool_result("s", "call_123", "list_files", "result")
    assert state.last_activity > before
    (_, _, greeting, result) = state.messages
    assert (greeting.role, greeting.content, greeting.name) == ("assistant", "Hi there", "greeter")  # type: ignore[union-attr]
    assert result == TOOL
    assert sessions.get_history("s") == [
        {"role": "system", "content": "You are helpful", "name": None},
        {"role": "user", "content": "Hello", "name": None},
        {"role": "assistant", "content": "Hi there", "name": "greeter"},
        TOOL,
    ]
    stored = (db.load_session("s") or {})["messages"]
    assert [message["content"] for message in stored] == ["You are helpful", "Hello", "Hi there", "result"]
    for append in (
        lambda: sessions.append_message("nobody", "user", "Hello"),
        lambda: sessions.append_tool_result("nobody", "call_123", "tool", "result"),
    ):
        with pytest.raises(ValueError, match=r"^Session nobody not found$"):
            append()


def test_messages_appended_by_callers_are_stored_later(sessions: SessionManager, db: Database) -> None:
    state = sessions.create("s")
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_123"}]}
    state.messages.append(call)
    sessions.append_tool_result("s", "call_123", "list_files", "result")
    assert (db.load_session("s") or {})["messages"][0]["tool_calls"] == [{"id": "call_123"}]
    state.messages.append({"role": "user", "content": "last"})
    found = SessionManager(reopened(db))
    assert [message["content"] for message in found.get_history("s")] == [None, "result", "last"]
    assert found.get("s") is not state
    loaded = found.get("s")
    assert loaded is not None
    assert loaded.messages == [call, TOOL, Message("user", "last")]
    assert loaded.last_activity == state.last_activity


def test_a_deleted_session_is_gone_and_keeps_its_id(sessions: SessionManager, db: Database) -> None:
    sessions.create("s")
    sessions.delete("s")
    assert not sessions.exists("s")
    assert db.list_all_sessions() == []
    with pytest.raises(IntegrityError):
        sessions.create("s")
    assert not sessions.exists("s")


def test_threads_append_to_one_session(sessions: SessionManager, db: Database) -> None:
    threads, rounds = 6, 20
    started = threading.Barrier(threads)

    def work(number: int) -> None:
        started.wait()
        sessions.get_or_create("s", "You are helpful")
        for count in range(rounds):
            sessions.append_message("s", "user", f"{number} {count}")
            assert f"{number} {count}" in stored(), "not lost to a save of another thread"

    def stored() -> list[str]:
        return [message["content"] for message in (db.load_session("s") or {})["messages"]]

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    assert stored() == [message["content"] for message in sessions.get_history("s")]
    assert stored()[0] == "You are helpful"
    for number in range(threads):
        own = [content for content in stored() if content.startswith(f"{number} ")]
        assert own == [f"{number} {count}" for count in range(rounds)]


def test_the_imported_manager_opens_its_file_on_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_session_manager() is session_manager
    session_manager.create("s")
    get_agent_context_manager().get_or_create("s", AgentType.ASK)
    assert Database().list_all_contexts() == ["s"]
    assert (tmp_path / "data" / "agent_runtime.db").exists()


# Agent contexts


def test_a_context_is_made_once_and_stored(contexts: AgentContextManager, db: Database) -> None:
    assert contexts.get("s") is None
    assert contexts.exists("s") is False
    assert contexts.get_session_count() == 0
    db.save_session("s", [], NOON)
    context = contexts.get_or_create("s", AgentType.DEBUG)
    assert isinstance(context, AgentContext)
    assert (context.session_id, context.current_agent) == ("s", AgentType.DEBUG)
    assert (context.agent_history, context.metadata, context.switch_count) == ([], {}, 0)
    assert context.last_switch_at is None
    assert contexts.get_or_create("s") is contexts.get("s") is context
    assert contexts.exists("s") is True
    assert (contexts.get_all_sessions(), contexts.get_session_count()) == (["s"], 1)
    assert (db.load_agent_context("s") or {})["current_agent"] == "debug"


def test_a_handover_and_metadata_are_stored_at_once(contexts: AgentContextManager, db: Database) -> None:
    db.save_session("s", [], NOON)
    context = contexts.get_or_create("s")
    context.switch_agent(AgentType.ORCHESTRATOR, "the same")
    assert context.agent_history == []
    context.switch_agent(AgentType.CODER, "User requested coding task")
    context.add_metadata("test_key", "test_value")
    assert context.get_metadata("test_key") == "test_value"
    assert context.get_metadata("other", 7) == 7
    (entry,) = history = context.get_agent_history()
    assert entry.keys() == {"from", "to", "reason", "timestamp"}
    assert (entry["from"], entry["to"]) == ("orchestrator", "coder")
    history.clear()
    assert len(context.agent_history) == context.switch_count == 1
    assert context.last_switch_at == datetime.fromisoformat(entry["timestamp"])
    loaded = db.load_agent_context("s") or {}
    assert (loaded["current_agent"], loaded["switch_count"]) == ("coder", 1)
    assert loaded["metadata"] == {"test_key": "test_value"}
    assert loaded["last_switch_at"] == context.last_switch_at.replace(tzinfo=None)


@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad")])
def test_what_cannot_be_stored_keeps_nothing_else_from_being_stored(
    contexts: AgentContextManager, db: Database, order: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for session_id in order:
        db.save_session(session_id, [], NOON)
        contexts.get_or_create(session_id).metadata[session_id] = True
    with pytest.raises(TypeError):
        contexts.get_or_create("bad").add_metadata("asked_at", NOON)
    SessionManager(db).create("s").messages.append({"role": "robot"})
    db = reopened(db)
    assert (db.load_agent_context("good") or {})["metadata"] == {"good": True}
    assert (db.load_agent_context("bad") or {})["metadata"] == {}
    assert "not JSON serializable" in caplog.text
    assert "'robot'" in caplog.text


def test_a_context_comes_back_in_the_next_process(contexts: AgentContextManager, db: Database) -> None:
    db.save_session("s", [], NOON)
    context = contexts.get_or_create("s")
    context.switch_agent(AgentType.CODER, "r")
    context.metadata["by_hand"] = True
    found = AgentContextManager(reopened(db)).get("s")
    assert found is not None
    assert found.metadata == {"by_hand": True}
    assert (found.current_agent, found.switch_count) == (AgentType.CODER, 1)
    assert (found.created_at, found.last_switch_at) == (context.created_at, context.last_switch_at)


def test_a_context_before_its_session_is_stored_with_its_next_change(
    contexts: AgentContextManager, db: Database
) -> None:
    context = contexts.get_or_create("s")
    assert db.list_all_contexts() == []
    db.save_session("s", [], NOON)
    context.add_metadata("k", 1)
    assert (db.load_agent_context("s") or {})["metadata"] == {"k": 1}


def test_contexts_are_deleted_and_cleaned_up_by_the_time_of_their_making(
    contexts: AgentContextManager, db: Database
) -> None:
    for session_id, age in (("old", 25), ("new", 23)):
        db.save_session(session_id, [], NOON)
        made = datetime.now(UTC) - timedelta(hours=age)
        db.save_agent_context(session_id, "coder", [], {}, made, None, 0)
    assert contexts.cleanup_old_sessions(max_age_hours=24) == 1
    assert contexts.get_all_sessions() == db.list_all_contexts() == ["new"]
    held = contexts.get("new")
    assert held is not None
    assert contexts.delete("new") is True
    assert contexts.delete("new") is False
    held.add_metadata("k", 1)
    assert db.list_all_contexts() == []


def test_an_agent_of_another_name_is_a_type_too(contexts: AgentContextManager, db: Database) -> None:
    db.save_session("s", [], NOON)
    db.save_agent_context("s", "reviewer", [], {}, NOON, None, 0)
    context = contexts.get("s")
    assert context is not None
    assert context.current_agent.value == "reviewer"
    assert context.current_agent == AgentType("reviewer") != AgentType.CODER
    context.switch_agent(AgentType.ASK, "r")
    assert (db.load_agent_context("s") or {})["agent_history"][0]["from"] == "reviewer"


# The later generation


async def test_before_a_database_is_chosen_everything_says_so() -> None:
    message = r"^Database not initialized\. Call init_database\(\) first\.$"
    with pytest.raises(RuntimeError, match=message):
        await init_db()
    with pytest.raises(RuntimeError, match=message):
        await anext(get_db())
    with pytest.raises(RuntimeError, match=message):
        database_async.Database().list_all_sessions()
    with pytest.raises(RuntimeError, match=message):
        await init_session_manager()
    with pytest.raises(RuntimeError, match=message):
        await init_agent_context_manager()
    assert session_manager_async.session_manager is None
    assert agent_context_async.agent_context_manager is None
    await close_db()


async def test_the_service_does_what_the_database_does(chosen: str) -> None:
    await init_db()
    service = get_database_service()
    assert service is get_database_service()
    async for db in get_db():
        await service.save_session(db, "s", [{"role": "user", "content": "Hi"}], NOON)
        loaded = await service.load_session(db, "s")
        assert loaded is not None
        assert (loaded["messages"], loaded["last_activity"]) == ([{"role": "user", "content": "Hi"}], NOON)
        entry = {"from": None, "to": "ask", "reason": "r", "timestamp": NOON.isoformat()}
        await service.save_agent_context(db, "s", "ask", [entry], {"a": 1}, NOON, NOON, 0)
        assert (await service.load_agent_context(db, "s") or {})["agent_history"] == [entry]
        await service.save_pending_approval(db, "x", "c", "write_file", {"path": "a"})
        assert [each["call_id"] for each in await service.get_pending_approvals(db, "x")] == ["c"]
        assert await service.delete_pending_approval(db, "c") is True
        assert await service.list_all_sessions(db) == ["s"]
        assert await service.delete_session(db, "s") is True
        assert await service.list_all_sessions(db, include_deleted=True) == ["s"]
        await db.commit()
        with pytest.raises(IntegrityError):
            await service.save_session(db, "s", [], NOON)
        with pytest.raises(database_async.NotSupported, match="use the methods of DatabaseService"):
            await db.execute("SELECT 1")
        with pytest.raises(database_async.NotSupported):
            await db.rollback()
    await close_db()
    assert Database(chosen).list_all_sessions(include_deleted=True) == ["s"]


async def test_the_later_database_is_the_chosen_one_and_works_in_an_event_loop(chosen: str) -> None:
    db = database_async.Database("sqlite:///ignored.db")
    db.save_session("s", [], NOON)
    assert Database(chosen).list_all_sessions() == Database().list_all_sessions() == ["s"]
    assert database_async.get_database() is not database_async.get_database()
    assert database_async.get_database().list_all_sessions() == ["s"]
    assert not Path("ignored.db").exists()


async def test_the_asynchronous_managers_persist_and_restore(chosen: str) -> None:
    """The script `test_persistence.py`."""
    await init_session_manager()
    await init_agent_context_manager()
    manager, agents = session_manager_async.session_manager, agent_context_async.agent_context_manager
    assert isinstance(manager, AsyncSessionManager)
    assert isinstance(agents, AsyncAgentContextManager)
    assert await get_async_session_manager() is manager
    state = await manager.create("s", system_prompt="You are a helpful assistant")
    await manager.append_message("s", "user", "Hello, how are you?")
    await manager.append_tool_result("s", "call_123", "list_files", "result")
    assert len(state.messages) == 3
    context = await agents.get_or_create("s")
    context.switch_agent(AgentType.CODER, "User requested coding task")
    context.add_metadata("test_key", "test_value")
    assert (context.switch_count, agents.exists("s")) == (1, True)
    await manager.shutdown()
    await agents.shutdown()
    await close_db()

    new_manager, new_agents = AsyncSessionManager(), AsyncAgentContextManager()
    await new_manager.initialize()
    await new_agents.initialize()
    assert [m["role"] for m in new_manager.get_history("s")] == ["system", "user", "tool"]
    found = new_agents.get("s")
    assert found is not None
    assert found is not context
    assert (found.current_agent, found.metadata) == (AgentType.CODER, {"test_key": "test_value"})
    assert (new_agents.get_all_sessions(), new_agents.get_session_count()) == (["s"], 1)
    assert await new_agents.cleanup_old_sessions() == 0
    assert await new_agents.delete("s") is True
    assert await new_agents.delete("s") is False
    await new_manager.delete("s")
    await new_manager.delete("nobody")
    assert new_manager.all_sessions() == []


async def test_concurrent_calls_keep_their_order(chosen: str) -> None:
    manager = AsyncSessionManager()
    await manager.get_or_create("s")
    await asyncio.gather(*(manager.append_message("s", "user", str(n)) for n in range(50)))
    stored = (Database(chosen).load_session("s") or {})["messages"]
    assert [message["content"] for message in stored] == [str(n) for n in range(50)]
    with pytest.raises(ValueError, match=r"^Session s already exists$"):
        await manager.create("s")
    with pytest.raises(ValueError, match=r"^Session t not found$"):
        await manager.append_message("t", "user", "x")


async def test_synchronous_and_asynchronous_managers_share_states(chosen: str) -> None:
    await init_session_manager()
    state = await (await get_async_session_manager()).create("s")
    assert session_manager.get("s") is state
    context = get_agent_context_manager().get_or_create("s")
    assert AsyncAgentContextManager().get("s") is context
