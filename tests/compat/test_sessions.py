"""How the `Database` of the earlier service saves sessions."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runtime.compat import operations
from runtime.compat.database import Database, IntegrityError
from runtime.store.store import Store
from tests.compat.saving import CALL, NOON, save_context, talk


def title_of(db: Database, session_id: str) -> str | None:
    return db.thread.run(lambda store: store.get_session(session_id)).title


def test_saving_again_replaces_the_whole_history_and_the_time(db: Database) -> None:
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


def test_a_message_is_kept_as_far_as_it_is_known(db: Database) -> None:
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
def test_a_role_that_is_none_is_an_integrity_error_and_changes_nothing(db: Database, session_id: str) -> None:
    db.save_session("kept", talk(2), NOON)
    with pytest.raises(IntegrityError, match="'robot'"):
        db.save_session(session_id, [*talk(1), {"role": "robot", "content": "x"}], NOON)
    assert db.list_all_sessions() == ["kept"]
    assert (db.load_session("kept") or {})["messages"] == talk(2)


def test_a_soft_deleted_session_cannot_be_saved(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    db.delete_session("s")
    with pytest.raises(IntegrityError, match="deleted"):
        db.save_session("s", talk(2), NOON)
    assert db.load_session("s") is None


@pytest.mark.parametrize("soft_first", [False, True])
def test_an_erased_session_leaves_its_approvals_alone(db: Database, soft_first: bool) -> None:
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


def test_the_title_is_500_characters_of_the_first_question(
    db: Database,
) -> None:
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


def test_saves_of_a_session_take_effect_in_order_at_any_size(db: Database) -> None:
    def begin(messages: list[dict[str, Any]]) -> Future[None]:
        return db.thread.submit(lambda store: operations.save_session(store, "s", messages, NOON))

    for saving in [begin(talk(3000)), begin(talk(1))]:
        saving.result()
    assert (db.load_session("s") or {})["messages"] == talk(1)


def test_a_follower_of_the_server_sees_what_is_saved(db: Database) -> None:
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
