"""How the `Database` of the earlier service saves agent contexts and approvals."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from runtime.compat.database import Database, IntegrityError
from runtime.store.store import Store
from tests.compat.saving import NOON, now, save_context, talk

# Contexts


def test_saving_a_context_again_keeps_its_creation_time(db: Database) -> None:
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
) -> None:
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
) -> None:
    save_context(db, "nobody")
    assert "'nobody' does not exist" in caplog.text
    assert db.list_all_contexts() == db.list_all_sessions() == []
    db.save_session("s", talk(1), NOON)
    db.delete_session("s")
    save_context(db, "s")
    assert "'s' is deleted" in caplog.text


def test_metadata_that_is_no_json_is_a_type_error(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    with pytest.raises(TypeError):
        save_context(db, "s", metadata={"asked_at": NOON})
    assert db.load_agent_context("s") is None


@pytest.mark.parametrize("changed", [{"current_agent": ""}, {"agent_history": [{"from": "ask", "to": None}]}])
def test_an_agent_without_a_name_is_an_integrity_error(db: Database, changed: dict[str, Any]) -> None:
    db.save_session("s", talk(1), NOON)
    with pytest.raises(IntegrityError):
        save_context(db, "s", **changed)
    assert db.load_agent_context("s") is None


def test_contexts_are_deleted_and_listed(db: Database) -> None:
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


def test_a_saved_session_gets_a_context_when_it_changes(
    db: Database,
) -> None:
    async def use_server(store: Store) -> None:
        await store.create_session("made")
        await store.switch_agent("saved", "coder", reason="asked")

    db.save_session("saved", talk(1), NOON)
    db.thread.run(use_server)
    assert sorted(db.list_all_contexts()) == ["made", "saved"]
    assert (db.load_agent_context("saved") or {})["current_agent"] == "coder"
    assert (db.load_agent_context("made") or {})["agent_history"] == []


# Approvals


def test_approvals_are_found_by_their_call_alone(db: Database) -> None:
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


def test_a_call_that_is_known_in_any_session_stays_as_it_is(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {"first": True})
    db.save_pending_approval("other", "c", "delete_file", {})
    db.save_pending_approval("s", "c", "delete_file", {})
    assert db.get_pending_approvals("other") == []
    assert [each["arguments"] for each in db.get_pending_approvals("s")] == [{"first": True}]
    db.update_approval_status("c", "rejected")
    db.save_pending_approval("s", "c", "delete_file", {})
    assert db.get_pending_approvals("s") == [], "a decided one too"


def test_the_session_of_an_approval_need_not_exist_and_is_not_made(db: Database) -> None:
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


def test_cleanup_spares_approvals_without_a_session_in_use(
    db: Database,
) -> None:
    db.save_pending_approval("nowhere", "old", "write_file", {})
    db.thread.run(lambda store: store.cleanup(max_age_hours=0, hard_delete_after_days=30))
    db.save_pending_approval("nowhere", "new", "write_file", {})
    db.thread.run(lambda store: store.cleanup(max_age_hours=1, hard_delete_after_days=0))
    assert [each["call_id"] for each in db.get_pending_approvals("nowhere")] == ["old", "new"]


@pytest.mark.parametrize(
    ("given", "stored"), [("approved", "approved"), ("rejected", "rejected"), ("cancelled", "rejected")]
)
def test_a_status_is_stored_also_over_another_one(db: Database, given: str, stored: str) -> None:
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


def test_approvals_of_a_soft_deleted_session_are_there_still(db: Database) -> None:
    db.save_session("s", talk(1), NOON)
    db.save_pending_approval("s", "c", "write_file", {})
    db.delete_session("s")
    assert [each["call_id"] for each in db.get_pending_approvals("s")] == ["c"]
    assert db.update_approval_status("c", "approved") is True
    assert db.get_pending_approvals("s") == []
